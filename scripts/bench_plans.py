#!/usr/bin/env python3
"""Plans for clusters that nobody has here: `plimsoll plan` for every file of configs/large, on the ranks and the cluster of the command
that its first lines name. Prints the layout, the predicted step and MFU, beside the published MFU where there is one, and how long
planning took. --verify replays every plan, whose step regions must have no padding. Called by bench.sh --plans."""
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
    out = start([program, "plan", file, "--ranks", ranks, "--cluster", ROOT / cluster, "--json", *(["--verify"] if verify else [])], file.name)
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
    if a.out:
        write_results(a.out, rows=rows)


if __name__ == "__main__":
    main()
