#!/usr/bin/env python3
"""Plans for clusters that nobody has here: `plimsoll plan` for every file of configs/large, on the ranks and the cluster of the command
that its first lines name. Prints the layout, the predicted step and MFU, beside the published MFU where there is one, and how long
planning took. --verify replays every plan, whose step regions must have no padding.

Then what recomputation costs Llama 3 8B at 8192 tokens on one H200 under budgets of its activation peak, as the graph and the description
of the device have it, beside the same of the layer whose tensors and times tests/runtime/plan/llama_layer.hpp writes down (the
planner gives these figures there to 0.01 points). Called by bench.sh --plans."""
import argparse
import json
import re
import resource
import time
from pathlib import Path

from bench_runs import PROGRAM, ROOT, start, write_results

# Megatron-LM's table on H100s, of models of these sizes (sequence 4096, vocabulary 131072).
PUBLISHED_MFU = {"megatron_1.7b": 0.41, "megatron_7.1b": 0.47, "megatron_70b": 0.42, "megatron_462b": 0.47}
COMMAND = re.compile(r"plimsoll plan (\S+) --ranks (\d+) --cluster (\S+)")


def plan(program, file, verify):
    """What the command in its first lines answers."""
    named, ranks, cluster = COMMAND.search(file.read_text()).groups()
    if ROOT / named != file:
        raise SystemExit(f"{file} names the command of {named}")
    cpu_before, begin = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime, time.monotonic()
    out = start([program, "plan", file, "--ranks", ranks, "--cluster", ROOT / cluster, "--json", "--out", "none",
                 *(["--verify"] if verify else [])], file.name)
    seconds = time.monotonic() - begin
    report = json.loads(out)
    for role in report["roles"]:
        for name, step in role["programs"].items():
            if verify and step["step_bytes"] > step["max_live_bytes"]:
                raise SystemExit(f"{file.name}, {role['role']}: the step region of {name} has {step['step_bytes'] - step['max_live_bytes']} bytes of padding")
    layouts = report["layouts"]
    return dict(model=file.stem, ranks=int(ranks), cluster=Path(cluster).stem, layout=layouts["best"][0]["layout"], tried=layouts["tried"],
                step_s=report["step"]["step_ms"] / 1e3, mfu=report["step"]["mfu"], published_mfu=PUBLISHED_MFU.get(file.stem),
                arena_bytes=report["arena_bytes"], planning_s=seconds,
                planning_cpu_s=resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - cpu_before)


# Of that layer: percent of the peak to percent of a step, of the exact plan and of the usual ways.
LLAMA_LAYER = {100: (0, 0, 0, 0), 75: (0.94, 8.6, 1.0, 0.9), 50: (7.34, 17.2, 11.0, 7.7), 35: (12.23, 21.9, 14.0, 12.5), 25: (15.56, 25.7, 16.1, 15.6)}
ONE_LLAMA = ["plan", ROOT / "configs/large/llama3_8b.yaml", "--ranks", "1", "--cluster", ROOT / "configs/clusters/h200.yaml", "--json", "--out", "none",
             "--set", "parallel={data: 1, zero: 0}", "--set", "train.global_batch=1", "--set", "train.micro_batch=1", "--set", "optimizer.name=sgd"]


def llama_budgets(program):
    """Rows of the table of budgets. SGD, so that state and activations of one sequence fit the device."""
    answer = lambda *settings: json.loads(start([program, *ONE_LLAMA, *(word for s in settings for word in ("--set", s))], "llama3_8b"))
    whole = answer("memory.recompute=none")
    state, outside = whole["persistent_bytes"], whole["outside_arena_bytes"]
    for percent, layer in LLAMA_LAYER.items():
        budget = state + (whole["planned_bytes"] - state) * percent // 100 + outside
        planned = answer(f"memory.budget={budget}")
        recompute = planned["recompute"]
        planner = recompute.get("planner", {})
        shares = [recompute.get("predicted_share_of_step", 0.0)]
        shares += [planner.get(f"{way}_share_of_step", 0.0) for way in ("first_layers", "uniform", "greedy")]
        yield dict(percent=percent, budget_bytes=budget, arena_bytes=planned["arena_bytes"], step_s=planned["step"]["step_ms"] / 1e3,
                   shares=shares, layer_shares=[share / 100 for share in layer])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=Path, default=PROGRAM)
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--out", default="bench_plans.json", help="empty: none")
    a = parser.parse_args()
    files = sorted((ROOT / "configs/large").glob("*.yaml"))
    if missing := PUBLISHED_MFU.keys() - {file.stem for file in files}:
        raise SystemExit(f"configs/large has no {', '.join(sorted(missing))}")
    rows = []
    print(f"{'model':<15}{'ranks':>6} {'cluster':<8}{'step s':>8}{'MFU':>8}{'published':>11}{'arena GiB':>11}{'planned in s':>14}{'of CPU':>8}  layout")
    for file in files:
        row = plan(a.program, file, a.verify)
        published = f"{100 * row['published_mfu']:.0f} %" if row["published_mfu"] else ""
        print(f"{row['model']:<15}{row['ranks']:>6} {row['cluster']:<8}{row['step_s']:>8.2f}{100 * row['mfu']:>6.1f} %{published:>11}"
              f"{row['arena_bytes'] / 2**30:>11.1f}{row['planning_s']:>14.1f}{row['planning_cpu_s']:>8.1f}  {row['layout']}", flush=True)
        rows.append(row)
    ways = ("plan", "k full", "uniform", "greedy")
    print(f"\nllama3_8b on one H200: percent of a step that recomputation adds\n{'of the peak':>11}{'arena GiB':>11}{'step s':>8}"
          f"{''.join(f'{way:>9}' for way in ways)}   of the layer alone:{''.join(f'{way:>9}' for way in ways)}")
    budgets = []
    for row in llama_budgets(a.program):
        budgets.append(row)
        percents = lambda shares: "".join(f"{100 * share:>9.2f}" for share in shares)
        print(f"{row['percent']:>9} %{row['arena_bytes'] / 2**30:>11.2f}{row['step_s']:>8.4f}{percents(row['shares'])}{'':>22}{percents(row['layer_shares'])}", flush=True)
    if a.out:
        write_results(a.out, rows=rows, budgets=budgets)


if __name__ == "__main__":
    main()
