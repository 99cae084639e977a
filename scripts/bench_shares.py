#!/usr/bin/env python3
"""What uneven shares are worth: two ranks on a core each, of which the second shares its core with another process that computes. Steps
with parallel.shares even and auto, interleaved; beside them what the run predicted from the speeds that it measured at its start.
Called by bench.sh --shares."""
import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from bench_runs import DATA, PROGRAM, start, steps_ms, write_results
from slow_rank import SlowRank, disturbed, unavailable

SEQUENCE = 128
TARGET = 0.8  # of the predicted gain


def write_config(path, data, micro_batches):
    path.write_text(
        f"model: {{family: gpt2, layers: 4, hidden: 256, heads: 4, vocabulary: 1024, positions: {SEQUENCE}, dropout: 0}}\n"
        f"data: {{train: {data}, validation: 0, sequence: {SEQUENCE}}}\ntrain: {{global_batch: {2 * micro_batches}, micro_batch: 1}}\n"
        "optimizer: {lr: 3e-4, clip: 1.0}\nschedule: {name: constant}\n"
        "run: {threads: 1, eval_every: 0, save_every: 0, log_every: 1}\n")


def train(ranks, program, config, folder, shares, steps):
    """Median step after the first two, and the plan."""
    run = Path(tempfile.mkdtemp(dir=folder)) / "run"
    start(ranks.mpirun(program, "train", config, "--set", f"run.dir={run}", "--set", f"train.steps={steps}", "--set",
                       f"parallel.shares={shares}"), f"shares {shares}")
    return statistics.median(steps_ms(run, 2)), json.loads((run / "plan.json").read_text())


def measure(rounds, steps, micro_batches, rivals, program=PROGRAM, data=DATA):
    """By round: steps with even shares and with uneven ones, ms, the shares, and the gain that was predicted."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, SlowRank(rivals) as ranks:
        config = Path(folder) / "shares.yaml"
        write_config(config, data, micro_batches)
        train(ranks, program, config, folder, "even", 3)  # measures kernels, which the rounds then know
        for _ in range(rounds):
            even, _ = train(ranks, program, config, folder, "even", steps)
            uneven, plan = train(ranks, program, config, folder, "auto", steps)
            speed = plan["shares_by_speed"]
            row = dict(even_ms=even, uneven_ms=uneven, shares=plan["shares"], micro_batch_ms=speed["micro_batch_ms"],
                       predicted_gain_ms=speed["gain_ms"])
            row["of_predicted"] = (even - uneven) / speed["gain_ms"] if speed["gain_ms"] > 0 else None
            rows.append(row)
            share = "nothing to compare" if row["of_predicted"] is None else f"{row['of_predicted']:.2f} of it"
            times = ", ".join(f"{ms:.2f}" for ms in row["micro_batch_ms"])
            print(f"micro-batch ms {times}; shares {row['shares']}: even {even:.1f} ms, uneven {uneven:.1f} ms, gain {even - uneven:.1f} ms, "
                  f"predicted {row['predicted_gain_ms']:.1f} ms: {share}, load {os.getloadavg()[0]:.1f}", flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--micro-batches", type=int, default=12, help="of an even share")
    parser.add_argument("--rivals", type=int, default=1, help="processes that compute on the core of the second rank")
    parser.add_argument("--out", default="bench_shares.json")
    a = parser.parse_args()
    if why := unavailable():
        print(f"bench.sh --shares: skipped: {why}")
        return 77
    if why := disturbed(10):
        print(f"times will say little: {why}", flush=True)
    rows = measure(a.rounds, a.steps, a.micro_batches, a.rivals)
    ratios = [row["of_predicted"] for row in rows if row["of_predicted"] is not None]
    ratio = statistics.median(ratios) if ratios else None
    if ratio is None:
        print("no gain was predicted: the ranks were found equally fast")
    else:
        print(f"measured gain / predicted gain, median of {len(ratios)}: {ratio:.2f} (target: at least {TARGET})")
    write_results(a.out, rivals=a.rivals, rounds=rows, of_predicted=ratio)
    return 0


if __name__ == "__main__":
    sys.exit(main())
