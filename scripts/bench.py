#!/usr/bin/env python3
"""Runs the benchmark matrix in rounds, ours and the peer's interleaved, and prints medians. Called by bench.sh."""
import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("PLIMSOLL_SHARED", ROOT.parent / "shared"))
PYTHON = os.environ.get("PYTHON", "python3")
SEQUENCE = 256
MODELS = {
    "gpt2": dict(batch=4, budget="2.6 GiB", model="{preset: gpt2-124m, vocabulary: 50304, dropout: 0}"),
    "small": dict(batch=8, model="{family: gpt2, layers: 6, hidden: 384, heads: 6, vocabulary: 50304, positions: 256}"),
}
LAYOUTS = ((1, 2), (2, 1))  # ranks x threads


def cpu_seconds():
    t = os.times()
    return t.children_user + t.children_system


def ours(name, ranks, threads, steps):
    """One run: medians over its steps without the first two, and what summary.json says about memory."""
    spec = MODELS[name]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        config = Path(folder) / "bench.yaml"
        config.write_text(
            f"model: {spec['model']}\n"
            f"data: {{train: {ROOT}/data/kjv, validation: 0, sequence: {SEQUENCE}}}\n"
            f"train: {{steps: {steps}, global_batch: {spec['batch']}, micro_batch: {spec['batch'] // ranks}}}\n"
            f"memory: {{budget: {spec.get('budget', 'auto')}}}\n"
            f"optimizer: {{lr: 3e-4, weight_decay: 0.1, clip: 1.0}}\nschedule: {{name: constant}}\n"
            f"run: {{dir: {run}, threads: {threads}, eval_every: 0, save_every: 0, log_every: 1}}\n")
        launch = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)] if ranks > 1 else []
        before = cpu_seconds()
        done = subprocess.run([*launch, str(ROOT / "build/release/bin/plimsoll"), "train", str(config)],
                              capture_output=True, text=True, timeout=900)
        if done.returncode != 0:
            raise SystemExit(f"{name} {ranks}x{threads} failed:\n{done.stderr[-2000:]}")
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][2:]
        summary = json.loads((run / "summary.json").read_text())
        median = lambda key: statistics.median(line[key] for line in lines)
        return dict(tokens_per_s=median("tokens_per_s"), gflops=median("model_gflops"), mfu=median("mfu"), cpu_s=cpu_seconds() - before,
                    peak_rss_bytes=max(r["peak_process_bytes"] for r in summary["ranks"]),
                    plan_bytes=max(r["planned_bytes"] for r in summary["ranks"]),
                    outside_bytes=max(r["outside_arena_bytes"] for r in summary["ranks"]))


def peer(name, ranks, steps):
    """PyTorch, tuned, compiled; None where it is not installed."""
    script = SHARED / "tools/torch_bench.sh"
    has_torch = subprocess.run([PYTHON, "-c", "import torch"], capture_output=True).returncode == 0
    if not script.exists() or not has_torch:
        return None
    arguments = [name, "--compile", "--steps", str(steps)]
    environment = dict(os.environ, PYTHON=PYTHON)
    if ranks > 1:
        arguments += ["--parallel", "ddp"]
        environment["RANKS"] = str(ranks)
    before = cpu_seconds()
    done = subprocess.run(["bash", str(script), *arguments], capture_output=True, text=True, env=environment, timeout=900)
    if done.returncode != 0:
        return None
    result = json.loads(re.findall(r"^\{.*\}$", done.stdout, re.M)[-1])
    return dict(tokens_per_s=result["tokens_s_median"], peak_rss_bytes=int(result["peak_rss_gib"] * 2**30), cpu_s=cpu_seconds() - before)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--models", default="gpt2,small")
    parser.add_argument("--out", default="bench.json")
    a = parser.parse_args()
    cells = [(m, r, t) for m in a.models.split(",") for r, t in LAYOUTS]
    results = {cell: dict(ours=[], peer=[]) for cell in cells}
    for _ in range(a.rounds):
        for cell in cells:
            results[cell]["ours"].append(ours(*cell, a.steps))
            other = peer(cell[0], cell[1], a.steps)
            if other:
                results[cell]["peer"].append(other)
    print(f"{'model':8}{'B':>4}{'T':>5}{'ranks x threads':>17}{'tokens/s':>10}{'GFLOP/s':>9}{'of GEMM':>9}{'CPU s':>8}{'peak RSS':>11}{'plan':>11}"
          f"{'PyTorch':>9}{'its CPU s':>11}{'ratio':>7}")
    rows = []
    for (name, ranks, threads), runs in results.items():
        mid = lambda key, who="ours": statistics.median(run[key] for run in runs[who])
        row = dict(model=name, batch=MODELS[name]["batch"], sequence=SEQUENCE, ranks=ranks, threads=threads, tokens_per_s=mid("tokens_per_s"),
                   gflops=mid("gflops"), share_of_gemm=mid("mfu"), cpu_s=mid("cpu_s"), peak_rss_bytes=mid("peak_rss_bytes"), plan_bytes=mid("plan_bytes"))
        if runs["peer"]:
            row["peer_tokens_per_s"] = mid("tokens_per_s", "peer")
            row["peer_cpu_s"] = mid("cpu_s", "peer")
            row["ratio"] = row["tokens_per_s"] / row["peer_tokens_per_s"]
        rows.append(row)
        gib = lambda b: f"{b / 2**30:.2f} GiB"
        beside = f"{row['peer_tokens_per_s']:>9.0f}{row['peer_cpu_s']:>11.1f}{row['ratio']:>7.2f}" if "ratio" in row else f"{'-':>9}{'-':>11}{'-':>7}"
        print(f"{name:8}{row['batch']:>4}{SEQUENCE:>5}{f'{ranks} x {threads}':>17}{row['tokens_per_s']:>10.0f}{row['gflops']:>9.1f}{row['share_of_gemm']:>9.1%}"
              f"{row['cpu_s']:>8.1f}{gib(row['peak_rss_bytes']):>11}{gib(row['plan_bytes']):>11}{beside}")
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    cpu = next((line.split(": ")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    Path(a.out).write_text(json.dumps(dict(commit=commit, cpu=cpu, cores=os.cpu_count(), load=os.getloadavg(), rounds=a.rounds, rows=rows), indent=1) + "\n")
    print(f"load {os.getloadavg()}, results in {a.out}")


if __name__ == "__main__":
    main()
