#!/usr/bin/env python3
"""What overlap of communication with compute is worth over a slow link: two ranks on two hosts (network namespaces) that this program
makes, joins by a shaped link, and removes. Every layout with and without overlap (`comm.overlap`), interleaved, medians. Called by
bench.sh --overlap; needs root and iproute2."""
import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from bench_runs import DATA, PROGRAM, only_those, start, steps_ms, write_results
from slow_link import SlowLink, overlapped_seconds, unavailable

MODEL = "{family: gpt2, layers: 6, hidden: 512, heads: 8, vocabulary: 1024, positions: 256, dropout: 0}"
SEQUENCE, BATCH = 256, 8
REPLICAS = ("zero 0", "zero 1", "zero 3")


def layouts(chunks):
    table = {f"data 2, {name}": (f"{{zero: {name[-1]}}}", BATCH // 2) for name in REPLICAS}
    for sequence in (False, True):
        for k in (1, chunks):
            name = f"tensor 2{', sequence' if sequence else ''}, {k} chunk{'s' if k > 1 else ''}"
            table[name] = (f"{{tensor: 2, sequence: {str(sequence).lower()}, tensor_chunks: {k}}}", BATCH // 2)
    return table


def train(link, parallel, micro_batch, overlap, steps, trace):
    """One run: medians over its steps without the first two, of step time and, from the trace, of what ran at the same time."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        config = Path(folder) / "overlap.yaml"
        config.write_text(
            f"model: {MODEL}\ndata: {{train: {DATA}, validation: 0, sequence: {SEQUENCE}}}\n"
            f"train: {{steps: {steps}, global_batch: {BATCH}, micro_batch: {micro_batch}}}\nparallel: {parallel}\n"
            f"comm: {{overlap: {str(overlap).lower()}}}\noptimizer: {{lr: 3e-4, clip: 1.0}}\nschedule: {{name: constant}}\n"
            f"run: {{dir: {run}, threads: 1, eval_every: 0, save_every: 0, log_every: 1{f', trace: {folder}/trace' if trace else ''}}}\n")
        start(link.mpirun(PROGRAM, "train", config), parallel)
        ranks = json.loads((run / "summary.json").read_text())["ranks"]
        result = dict(step_ms=statistics.median(steps_ms(run, 2)), bytes_a_step=sum(ranks[0]["collective_bytes"].values()) / steps)
        if trace:
            events = json.loads(Path(f"{folder}/trace.0").read_text())["traceEvents"]
            compute, communication, both = overlapped_seconds(events)
            result |= dict(compute_s=compute / steps, communication_s=communication / steps, both_s=both / steps)
        return result


def row_of(name, runs):
    middle = lambda overlap, key: statistics.median(run[key] for run in runs[overlap])
    row = dict(layout=name, bytes_a_step=runs[True][0]["bytes_a_step"], off_ms=middle(False, "step_ms"), on_ms=middle(True, "step_ms"),
               ratio=middle(False, "step_ms") / middle(True, "step_ms"))
    for key in ("compute_s", "communication_s", "both_s"):
        row[key] = middle(True, key)
        row[f"off_{key}"] = middle(False, key)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rate", default="1gbit")
    parser.add_argument("--chunks", type=int, default=4, help="of a split linear, beside 1")
    parser.add_argument("--only", default="", help="layouts whose name contains this")
    parser.add_argument("--out", default="bench_overlap.json")
    a = parser.parse_args()
    table = only_those(layouts(a.chunks), a.only, parser)
    if why := unavailable():
        print(f"bench.sh --overlap: skipped: {why}")
        return 77
    print(f"2 ranks x 1 thread, {a.rate} each way, a step of {BATCH} x {SEQUENCE} tokens; in the trace of a step with overlap (s)")
    print(f"{'layout':32}{'MB sent':>9}{'off ms':>9}{'on ms':>9}{'off/on':>8}{'compute':>10}{'communic.':>11}{'both':>8}", flush=True)
    rows = []
    with SlowLink(a.rate) as link:
        for name, (parallel, micro_batch) in table.items():
            runs = {True: [], False: []}
            for _ in range(a.rounds):
                for overlap in (False, True):
                    runs[overlap].append(train(link, parallel, micro_batch, overlap, a.steps, trace=True))
            rows.append(row := row_of(name, runs))
            print(f"{name:32}{row['bytes_a_step'] / 1e6:>9.1f}{row['off_ms']:>9.0f}{row['on_ms']:>9.0f}{row['ratio']:>8.2f}"
                  f"{row['compute_s']:>10.2f}{row['communication_s']:>11.2f}{row['both_s']:>8.2f}", flush=True)
    write_results(a.out, rate=a.rate, rounds=a.rounds, rows=rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
