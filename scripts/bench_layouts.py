#!/usr/bin/env python3
"""`parallel: auto` against every layout of two ranks with a thread each: what a step was predicted to take, what it took, and where the
choice of the planner stands among them; and a line for each of the aims with yes or no. The layouts are those that the planner itself
lists. Four and eight ranks share the cores of a small machine: of them only the choice is run, for its memory, and
tests/launch/layout_grid_slow_test.cpp runs every layout. Runs go round by round, medians over their steps. Called by bench.sh --layouts."""
import argparse
import json
import statistics
import tempfile
from pathlib import Path

from bench_runs import DATA, PROGRAM, start, steps_ms, write_results

MODEL = "{family: gpt2, layers: 6, hidden: 384, heads: 6, vocabulary: 8192, positions: 256}"
SEQUENCE, BATCH = 256, 8
SKIP = 2  # steps that do not count
WIDTH = 80  # of a layout
NEAR, MOST_ERROR = 1.10, 0.15  # the aims: of the best of the grid, and of the median error of a predicted step


def configuration(parallel, rows, steps, out):
    return (f"model: {MODEL}\ndata: {{train: {DATA}, validation: 0, sequence: {SEQUENCE}}}\n"
            f"train: {{steps: {steps}, global_batch: {BATCH}, micro_batch: {rows}}}\nparallel: {parallel}\n"
            f"optimizer: {{lr: 3e-4, clip: 1.0}}\nschedule: {{name: constant}}\n"
            f"run: {{dir: {out}, threads: 1, seed: 1, eval_every: 0, save_every: 0, log_every: 1}}\n")


def grid(ranks):
    """(parallel section, micro-batch) of every layout that the planner may choose, its best and all that are only slower, with its name."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "layout.yaml"
        config.write_text(configuration("auto", "auto", 1, folder))
        layouts = json.loads(start([PROGRAM, "plan", config, "--ranks", ranks, "--why", "--json", "--out", "none"], "the list of layouts"))["layouts"]
    rows = layouts["best"] + [row for row in layouts["fell"] if row["reason"] == "time"]
    return {(row["parallel"], row["micro_batch"]): row["layout"] for row in rows}


def run(ranks, parallel, rows, steps):
    """One run: its median step, what was predicted, and its memory."""
    with tempfile.TemporaryDirectory() as folder:
        out, config = Path(folder) / "run", Path(folder) / "layout.yaml"
        config.write_text(configuration(parallel, rows, steps, out))
        start(["mpirun", "--oversubscribe", "--bind-to", "none", "-n", ranks, PROGRAM, "train", config], f"{parallel}, micro-batch {rows}")
        summary, plan = json.loads((out / "summary.json").read_text()), json.loads((out / "plan.json").read_text())
        return dict(step_ms=statistics.median(steps_ms(out, SKIP)), predicted_ms=summary["predicted_step_ms"],
                    parallel=plan["parallel"], micro_batch=plan["micro_batch"],
                    exact=all(r["planned_bytes"] == r["arena_high_water_bytes"] for r in summary["ranks"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--out", default="bench_layouts.json")
    a = parser.parse_args()
    layouts = grid(2)
    for layout in layouts:
        run(2, *layout, SKIP + 1)  # measures the kernels of its shapes, and warms up
    runs = {layout: [] for layout in [("auto", "auto"), *layouts]}
    for _ in range(a.rounds):
        for layout in runs:
            runs[layout].append(run(2, *layout, a.steps))
    median = lambda layout, key: statistics.median(r[key] for r in runs[layout])
    rows = sorted((dict(layout=name, parallel=p, micro_batch=m, step_ms=median((p, m), "step_ms"), predicted_ms=median((p, m), "predicted_ms"),
                        exact=all(r["exact"] for r in runs[p, m])) for (p, m), name in layouts.items()), key=lambda row: row["step_ms"])
    print(f"{'layout of 2 ranks':<{WIDTH}}{'step ms':>10}{'predicted':>11}{'error':>9}{'plan held':>11}")
    for row in rows:
        row["error"] = row["predicted_ms"] / row["step_ms"] - 1
        print(f"{row['layout']:<{WIDTH}}{row['step_ms']:>10.1f}{row['predicted_ms']:>11.1f}{100 * row['error']:>+8.1f}%"
              f"{'yes' if row['exact'] else 'NO':>11}")
    chosen, best = runs["auto", "auto"][0], rows[0]
    auto_ms = median(("auto", "auto"), "step_ms")
    error = statistics.median(abs(row["error"]) for row in rows)
    print(f"parallel: auto chose {chosen['parallel']}, micro-batch {chosen['micro_batch']}: {auto_ms:.1f} ms, {auto_ms / best['step_ms']:.3f} of the "
          f"best of the grid; median error of a predicted step {100 * error:.1f} %")
    larger = {ranks: run(ranks, "auto", "auto", SKIP + 2) for ranks in (4, 8)}
    for ranks, r in larger.items():
        print(f"{ranks} ranks: {r['parallel']}, micro-batch {r['micro_batch']}, plan held: {'yes' if r['exact'] else 'NO'}")
    everything = [r for of_layout in runs.values() for r in of_layout] + list(larger.values())
    verdicts = {f"chosen within {100 * NEAR - 100:.0f} % of the best of {len(rows)} layouts": auto_ms <= NEAR * best["step_ms"],
                f"median error at most {100 * MOST_ERROR:.0f} %": error <= MOST_ERROR,
                "every plan held": all(r["exact"] for r in everything)}
    for aim, reached in verdicts.items():
        print(f"{aim}: {'yes' if reached else 'NO'}")
    write_results(a.out, rounds=a.rounds, auto_ms=auto_ms, chosen=chosen, larger=larger, median_error=error, verdicts=verdicts, rows=rows)


if __name__ == "__main__":
    main()
