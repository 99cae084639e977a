#!/usr/bin/env python3
"""What the sizer's buckets are worth over slow links: two ranks on two hosts (network namespaces) that this program makes, joins by a
shaped link, and removes. On each link: a probe, then a step with every size of bucket by brute force, with 25 MiB, with one bucket, and
with comm.bucket: auto; interleaved, medians. Called by bench.sh --sizer; needs root and iproute2."""
import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench_runs import DATA, PROGRAM, only_those, start, steps_ms, write_results
from slow_link import SlowLink, delay_tool, unavailable

SEQUENCE = 256


@dataclass
class Case:
    """A link, and a model whose gradients take about as long on it as backward does."""
    rate: str
    delay_us: int
    layers: int
    hidden: int
    batch: int
    largest: str  # of the probe


CASES = {"1 Gbit/s, 100 us": Case("1gbit", 100, 6, 256, 8, "32MiB"), "100 Mbit/s, 1 ms": Case("100mbit", 1000, 4, 128, 32, "8MiB")}
FIXED, ONE = 25 << 20, 1 << 40


def sizes():
    """By name: the keys that say it."""
    table = {f"{kib} KiB": f"comm.bucket={kib}KiB" for kib in (64, 256, 512, 1024, 2048, 4096, 8192)}
    return table | {"25 MiB": f"comm.bucket={FIXED}", "one bucket": f"comm.bucket={ONE}", "auto": "comm.bucket=auto"}


def train(link, folder, config, cluster, bucket, steps):
    """Median step, number of buckets, and what the plan says they leave exposed."""
    run = Path(tempfile.mkdtemp(dir=folder)) / "run"
    keys = [f"run.dir={run}", f"train.steps={steps}", f"comm.cluster={cluster}", bucket]
    start(link.mpirun(PROGRAM, "train", config, *(word for key in keys for word in ("--set", key))), bucket)
    return statistics.median(steps_ms(run, 2)), json.loads((run / "plan.json").read_text())["buckets"]


def measure(case, folder, rounds, steps, names, zero):
    config, cluster = folder / "sizer.yaml", folder / "cluster.yaml"
    config.write_text(
        f"model: {{family: gpt2, layers: {case.layers}, hidden: {case.hidden}, heads: 4, vocabulary: 1024, positions: {SEQUENCE}, dropout: 0}}\n"
        f"data: {{train: {DATA}, validation: 0, sequence: {SEQUENCE}}}\ntrain: {{global_batch: {case.batch}, micro_batch: {case.batch // 2}}}\n"
        f"optimizer: {{lr: 3e-4, clip: 1.0}}\nschedule: {{name: constant}}\nparallel: {{zero: {zero}}}\n"
        "run: {threads: 1, eval_every: 0, save_every: 0, log_every: 1}\n")
    ms, plans = {name: [] for name in names}, {}
    with SlowLink(case.rate, case.delay_us if delay_tool() else 0) as link:
        print(start(link.mpirun(PROGRAM, "probe", config, "--largest", case.largest, "--out", cluster), "the probe"), end="", flush=True)
        for _ in range(rounds):
            for name in names:
                step_ms, plans[name] = train(link, folder, config, cluster, sizes()[name], steps)
                ms[name].append(step_ms)
    return {name: dict(step_ms=statistics.median(ms[name]), buckets=len(plans[name]["bytes"]), exposed_ms=plans[name]["exposed_ms"])
            for name in names}


def yes(holds):
    return "yes" if holds else "NO"


def report(rows):
    """The table and what it says: the sizer beside the best size of the sweep and beside 25 MiB."""
    print(f"{'bucket':14}{'number':>8}{'step ms':>10}{'predicted exposed ms':>22}")
    for name, row in rows.items():
        print(f"{name:14}{row['buckets']:>8}{row['step_ms']:>10.1f}{row['exposed_ms']:>22.1f}")
    best = min((name for name in rows if name != "auto"), key=lambda name: rows[name]["step_ms"])
    auto = rows["auto"]["step_ms"]
    fixed, least = rows["25 MiB"]["step_ms"], rows[best]["step_ms"]
    verdict = dict(best=best, auto_over_best=auto / least, fixed_over_auto=fixed / auto, one_over_auto=rows["one bucket"]["step_ms"] / auto,
                   near_best=auto <= 1.05 * least, beatable=least < fixed, beats_fixed=auto < fixed)
    print(f"auto / best of the sweep ({best}): {verdict['auto_over_best']:.3f}; 25 MiB / auto: {verdict['fixed_over_auto']:.3f}; "
          f"one bucket / auto: {verdict['one_over_auto']:.3f}")
    print(f"verdict: within 5 % of the best of the sweep: {yes(verdict['near_best'])} (auto {auto:.1f} ms, {best} {least:.1f} ms)")
    print("verdict: faster than 25 MiB: " + (f"{yes(verdict['beats_fixed'])} (auto {auto:.1f} ms, 25 MiB {fixed:.1f} ms)" if verdict["beatable"]
                                            else "not possible, says the sweep"), flush=True)
    return verdict


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--zero", type=int, default=0, choices=range(4), help="above 0 whole layers are summed, at least one at a time")
    parser.add_argument("--only", default="", help="links whose name contains this")
    parser.add_argument("--out", default="bench_sizer.json")
    a = parser.parse_args()
    cases = only_those(CASES, a.only, parser)
    if why := unavailable():
        print(f"bench.sh --sizer: skipped: {why}")
        return 77
    if not delay_tool():
        print("links without a delay: tools/tapdelay.cpp of the shared folder, /dev/net/tun or a compiler is not there")
    results = {}
    for name, case in cases.items():
        print(f"{name}: 2 ranks x 1 thread, {case.layers} layers of {case.hidden}, a step of {case.batch} x {SEQUENCE} tokens, zero {a.zero}, "
              f"load {os.getloadavg()[0]:.1f}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(case, Path(folder), a.rounds, a.steps, list(sizes()), a.zero)
        results[name] = dict(rows=rows, **report(rows), load=os.getloadavg())
    write_results(a.out, rounds=a.rounds, zero=a.zero, links=results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
