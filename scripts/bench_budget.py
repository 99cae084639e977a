#!/usr/bin/env python3
"""GPT-2 124M under budgets of its activation peak, on the CPU at 256 tokens, or with --gpu on a GPU at 1024 in bf16: what memory.recompute:
auto plans, what a run then takes in memory and time, and what the usual ways would cost. Every budget is interleaved with the unbudgeted
run; medians. Called again, it measures the budgets that the results lack. Called by bench.sh --budget.

Two overheads are measured. `again`: the seconds of the nodes that recompute over those of the rest of the same step, which is what the plan
predicts, and which the noise of the machine leaves alone, since it falls on both; on a GPU of one more run, with a trace, since nodes are timed
in no other. `step`: the step over that of the unbudgeted run beside it.

A budget of x % is what lives for the whole run, x % of the rest of the arena without recomputation, and what a process needs outside it."""
import argparse
import json
import os
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench_runs import DATA, PROGRAM, ROOT, identity, keeps_going, results_of, save_results, start, write_results


@dataclass(frozen=True)
class Step:
    device: str
    precision: str
    batch: int
    sequence: int
    dropout: float
    program: Path


ON_CPU = Step("cpu", "fp32", 4, 256, 0.1, PROGRAM)
# Without dropout, which fused attention does not take.
ON_GPU = Step("cuda", "bf16", 16, 1024, 0, ROOT / "build/cuda/bin/plimsoll")
SPARE = 256 << 20  # of what a process needs outside the arena, beyond what the unbudgeted run needed: the room that auto leaves, or more


def config_text(a, run, memory, trace="off"):
    # One size of the chunks of logits in all runs: how sums over the vocabulary are cut decides their bits.
    return (f"model: {a.model}\ndevice: {a.on.device}\nprecision: {a.on.precision}\n"
            f"data: {{train: {DATA}, validation: 0, sequence: {a.on.sequence}}}\n"
            f"train: {{steps: {a.steps}, global_batch: {a.on.batch}, micro_batch: {a.on.batch}}}\nmemory: {{logits: 16 MiB, {memory}}}\n"
            f"optimizer: {{lr: 3e-4, weight_decay: 0.1, clip: 1.0}}\nschedule: {{name: constant}}\n"
            f"run: {{dir: {run}, threads: {a.threads}, seed: 1, eval_every: 0, save_every: 0, log_every: 1, trace: {trace}}}\n")


def run(a, command, text, folder):
    config = Path(folder) / "budget.yaml"
    config.write_text(text)
    return start([a.on.program, *command[:1], config, *command[1:]], f"{' '.join(command)} of\n{text}", 1800)


def train(a, memory, traced=False):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run(a, ["train"], config_text(a, out, memory, Path(folder) / "trace.json" if traced else "off"), folder)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        summary = json.loads((out / "summary.json").read_text())
        plan = json.loads((out / "plan.json").read_text())
        rank = summary["ranks"][0]
        return dict(losses=[line["loss"] for line in lines], step_ms=statistics.median(line["step_ms"] for line in lines[1:]),
                    predicted_step_ms=summary["predicted_step_ms"], planned=rank["planned_bytes"], reserve=plan["outside_arena_bytes"], arena=rank["arena_high_water_bytes"],
                    again=again_share(rank["measured_ms"]), process=rank["peak_process_bytes"], outside=rank["outside_arena_bytes"], allocations=rank["allocations_after_first_step"],
                    recompute=plan.get("recompute", {}))


def again_share(ms):
    """Of a step of one micro-batch; None where nodes are not timed, as on a GPU without a trace."""
    if ms["recompute"] is None:
        return None
    return ms["recompute"] / (ms["forward"] + ms["backward"] - ms["recompute"] + ms["update"])


def row_of(percent, budget, runs, reference, traced):
    first = runs[0]
    again = [r["again"] for r in runs + traced if r["again"] is not None]
    recompute, planner = first["recompute"], first["recompute"].get("planner", {})
    overheads = [r["step_ms"] / u["step_ms"] - 1 for r, u in zip(runs, reference)]
    return dict(percent=percent, budget_bytes=budget, planned_bytes=first["planned"], arena_bytes=max(r["arena"] for r in runs),
                process_bytes=max(r["process"] for r in runs),
                # Planned: the arena, and outside of it what the unbudgeted run needed.
                peak_over_plan=max(r["process"] / (r["planned"] + r["reserve"] - SPARE) for r in runs) - 1, fits=all(r["process"] <= budget and r["arena"] == r["planned"] for r in runs),
                predicted=recompute.get("predicted_share_of_step", 0.0), again=statistics.median(again),
                again_spread=max(again) - min(again), step_overhead=statistics.median(overheads),
                step_spread=max(overheads) - min(overheads), step_ms=statistics.median(r["step_ms"] for r in runs),
                predicted_step_ms=first["predicted_step_ms"], exact=planner.get("exact"),
                first_layers=planner.get("first_layers_share_of_step"), uniform=planner.get("uniform_share_of_step"),
                greedy=planner.get("greedy_share_of_step"), same_bits=all(r["losses"] == reference[0]["losses"] for r in runs + traced))


HEADER = (f"{'budget':>7}{'bytes':>11}{'planned':>11}{'arena':>11}{'peak':>11}{'- plan':>8}{'step ms':>9}{'predicted':>11}{'again':>8}{'spread':>8}{'step':>8}{'spread':>8}"
          f"{'k full':>8}{'uniform':>9}{'greedy':>8}{'fits':>6}{'bits':>7}")


def text_of(row):
    mib = lambda b: f"{b / 2**20:.1f} M"
    share = lambda x: "-" if x is None else f"{100 * x:.2f}%"
    return (f"{row['percent']:>6}%{mib(row['budget_bytes']):>11}{mib(row['planned_bytes']):>11}{mib(row['arena_bytes']):>11}"
            f"{mib(row['process_bytes']):>11}{share(row['peak_over_plan']):>8}{row['step_ms']:>9.1f}{share(row['predicted']):>11}{share(row['again']):>8}{share(row['again_spread']):>8}{share(row['step_overhead']):>8}"
            f"{share(row['step_spread']):>8}"
            f"{share(row['first_layers']):>8}{share(row['uniform']):>9}{share(row['greedy']):>8}{'yes' if row['fits'] else 'NO':>6}"
            f"{'equal' if row['same_bits'] else 'DIFFER':>7}")


def measure(a, percent, budget, outside):
    """The row of a budget, beside unbudgeted runs."""
    memory = f"recompute: auto, budget: {budget}, reserve: {outside}"
    reference, budgeted = [], []
    for _ in range(a.rounds):
        reference.append(train(a, "recompute: none"))
        budgeted.append(train(a, memory))
    traced = [train(a, memory, traced=True)] if a.on is ON_GPU else []
    return row_of(percent, budget, budgeted, reference, traced)


def print_verdicts(a, rows, failed):
    measured = [row for row in rows if "failed" not in row]
    if not measured:
        return
    off = lambda key: max(100 * abs(row[key] - row["predicted"]) for row in measured)
    for key, what in (("again", "what recomputes"), ("step_overhead", "the step beside the unbudgeted one")):
        print(f"measured within 2 points of the prediction, by {what}: {'yes' if off(key) <= 2 and not failed else 'NO'} (at most {off(key):.2f} points)")
    if a.on is ON_GPU:
        above = max(row["peak_over_plan"] for row in measured)
        print(f"the peak of the device's memory is at most 1 % above the plan: {'yes' if above <= 0.01 and not failed else 'NO'} (at most {100 * above:.2f} %)")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="of a run; the first does not count")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--model", help="default: GPT-2 124M")
    parser.add_argument("--percent", default="100,75,50,35,25")
    parser.add_argument("--gpu", dest="on", action="store_const", const=ON_GPU, default=ON_CPU)
    parser.add_argument("--out", default="bench_budget.json")
    a = parser.parse_args()
    a.model = a.model or f"{{preset: gpt2-124m, vocabulary: 50304, dropout: {a.on.dropout}}}"
    with tempfile.TemporaryDirectory() as folder:
        plan = json.loads(run(a, ["plan", "--json", "--out", "none"], config_text(a, Path(folder) / "run", "recompute: none"), folder))
    persistent, step_region = plan["persistent_bytes"], plan["planned_bytes"] - plan["persistent_bytes"]
    settings = dict(device=a.on.device, threads=a.threads, rounds=a.rounds, steps=a.steps, model=a.model, **identity(a.on.program))
    before = results_of(a.out, **settings)
    # Also measures the kernels, and warms up.
    outside = before.get("outside_bytes") or train(a, "recompute: none")["outside"] + SPARE
    print(f"a step of {a.on.batch} x {a.on.sequence} tokens in {a.on.precision} on {a.on.device}, {a.threads} thread(s); {persistent / 2**20:.1f} MiB live for the whole run, "
          f"{step_region / 2**20:.1f} MiB in a step without recomputation, {outside / 2**20:.1f} MiB outside the arena; load {os.getloadavg()}")
    print("overheads in percent of the unbudgeted step, of whose runs every one stands beside a budgeted run")
    print(HEADER, flush=True)
    rows, failed = {row["percent"]: row for row in before.get("rows", [])}, {}
    cpu = next((line.split(": ")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    results = lambda: dict(cpu=cpu, **settings, outside_bytes=outside, rows=[rows[percent] for percent in sorted(rows, reverse=True)])
    percents = [int(p) for p in a.percent.split(",")]
    for percent in sorted(percents, key=lambda p: "failed" in rows.get(p, {})):  # what failed before comes last
        budget = persistent + step_region * percent // 100 + outside
        name = f"{percent} %"
        if "failed" in rows.get(percent, dict(failed=None)):
            row = dict(percent=percent, budget_bytes=budget)
            with keeps_going(failed, name):
                row = measure(a, percent, budget, outside)
            if name in failed:
                row["failed"] = failed[name]
            rows[percent] = row
            save_results(a.out, **results())
        if name not in failed:
            print(text_of(rows[percent]), flush=True)
    print_verdicts(a, rows.values(), failed)
    write_results(a.out, **results())
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
