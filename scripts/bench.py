#!/usr/bin/env python3
"""Runs the benchmark matrix in rounds, ours and the peer's interleaved, and prints medians. Called by bench.sh."""
import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench_runs import DATA, PROGRAM, PYTHON, shared_tool, start, write_results

SEQUENCE = 256
PRECISIONS = ("fp32", "bf16", "fp16")
PEER_PRECISIONS = ("fp32", "bf16")
MODELS = {
    "gpt2": dict(batch=4, budget="2.6 GiB", model="{preset: gpt2-124m, vocabulary: 50304, dropout: 0}"),
    "small": dict(batch=8, model="{family: gpt2, layers: 6, hidden: 384, heads: 6, vocabulary: 50304, positions: 256}"),
}


@dataclass(frozen=True)
class Layout:
    """How a model is spread: our parallel section, and what PyTorch is asked for beside it (None: it has no like)."""
    name: str
    ranks: int
    threads: int
    parallel: str = "{}"
    replicas: int = 1
    micro_batches: int = 1  # of a step, on each replica
    peer: tuple = ("--compile",)


SPEED = (Layout("1 x 2", 1, 2), Layout("2 x 1", 2, 1, replicas=2, peer=("--compile", "--parallel", "ddp")))
MESH = (Layout("data 2", 2, 1, replicas=2, peer=("--compile", "--parallel", "ddp")),
        Layout("zero 1", 2, 1, "{zero: 1}", replicas=2, peer=None),
        Layout("zero 3", 2, 1, "{zero: 3}", replicas=2, peer=("--parallel", "fsdp")),
        Layout("tensor 2", 2, 1, "{tensor: 2}", peer=None),
        Layout("pipeline 2", 2, 1, "{pipeline: 2, zero: 0}", micro_batches=4, peer=None))


def cpu_seconds():
    t = os.times()
    return t.children_user + t.children_system


def ours(model, layout, precision, steps):
    """One run: medians over its steps without the first two, and what summary.json says about memory."""
    spec = MODELS[model]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        config = Path(folder) / "bench.yaml"
        config.write_text(
            f"model: {spec['model']}\n"
            f"data: {{train: {DATA}, validation: 0, sequence: {SEQUENCE}}}\n"
            f"train: {{steps: {steps}, global_batch: {spec['batch']}, micro_batch: {spec['batch'] // layout.replicas // layout.micro_batches}}}\n"
            f"memory: {{budget: {spec.get('budget', 'auto')}}}\n"
            f"parallel: {layout.parallel}\nprecision: {precision}\n"
            f"optimizer: {{lr: 3e-4, weight_decay: 0.1, clip: 1.0}}\nschedule: {{name: constant}}\n"
            f"run: {{dir: {run}, threads: {layout.threads}, eval_every: 0, save_every: 0, log_every: 1}}\n")
        launch = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(layout.ranks)] if layout.ranks > 1 else []
        before = cpu_seconds()
        start([*launch, PROGRAM, "train", config], f"{model}, {layout.name}")
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][2:]
        summary = json.loads((run / "summary.json").read_text())
        median = lambda key: statistics.median(line[key] for line in lines)
        return dict(tokens_per_s=median("tokens_per_s"), gflops=median("model_gflops"), mfu=median("mfu"), cpu_s=cpu_seconds() - before,
                    peak_rss_bytes=max(r["peak_process_bytes"] for r in summary["ranks"]),
                    plan_bytes=max(r["planned_bytes"] for r in summary["ranks"]))


def peer(model, layout, precision, steps):
    """PyTorch, tuned, in bf16 under autocast; None where it is not installed or has no such layout or precision."""
    script = shared_tool("torch_bench.sh")
    if layout.peer is None or precision not in PEER_PRECISIONS or script is None:
        return None
    if subprocess.run([PYTHON, "-c", "import torch"], capture_output=True).returncode != 0:
        return None
    environment = dict(os.environ, PYTHON=PYTHON)
    if layout.ranks > 1:
        environment["RANKS"] = str(layout.ranks)
    before = cpu_seconds()
    done = subprocess.run(["bash", str(script), model, "--steps", str(steps), "--dtype", precision, *layout.peer], capture_output=True, text=True, env=environment,
                          timeout=900)
    if done.returncode != 0:
        return None
    result = json.loads(re.findall(r"^\{.*\}$", done.stdout, re.M)[-1])
    return dict(tokens_per_s=result["tokens_s_median"], peak_rss_bytes=int(result["peak_rss_gib"] * 2**30), cpu_s=cpu_seconds() - before)


def row_of(model, layout, precision, runs):
    mid = lambda key, who="ours": statistics.median(run[key] for run in runs[who])
    row = dict(model=model, layout=layout.name, precision=precision, batch=MODELS[model]["batch"], sequence=SEQUENCE, ranks=layout.ranks, threads=layout.threads,
               tokens_per_s=mid("tokens_per_s"), gflops=mid("gflops"), share_of_gemm=mid("mfu"), cpu_s=mid("cpu_s"),
               peak_rss_bytes=mid("peak_rss_bytes"), plan_bytes=mid("plan_bytes"))
    if runs["peer"]:
        row |= dict(peer_tokens_per_s=mid("tokens_per_s", "peer"), peer_cpu_s=mid("cpu_s", "peer"),
                    peer_peak_rss_bytes=mid("peak_rss_bytes", "peer"), ratio=mid("tokens_per_s") / mid("tokens_per_s", "peer"))
    return row


HEADER = (f"{'model':8}{'layout':>10}{'in':>6}{'B':>4}{'T':>5}{'ranks x threads':>17}{'tokens/s':>10}{'GFLOP/s':>9}{'of GEMM':>9}{'CPU s':>8}"
          f"{'peak RSS':>11}{'plan':>11}{'PyTorch':>9}{'its CPU s':>11}{'its RSS':>11}{'ratio':>7}")


def text_of(row):
    gib = lambda b: f"{b / 2**30:.2f} GiB"
    beside = f"{'-':>9}{'-':>11}{'-':>11}{'-':>7}"
    if "ratio" in row:
        beside = f"{row['peer_tokens_per_s']:>9.0f}{row['peer_cpu_s']:>11.1f}{gib(row['peer_peak_rss_bytes']):>11}{row['ratio']:>7.2f}"
    shape = f"{row['ranks']} x {row['threads']}"
    return (f"{row['model']:8}{row['layout']:>10}{row['precision']:>6}{row['batch']:>4}{row['sequence']:>5}{shape:>17}{row['tokens_per_s']:>10.0f}{row['gflops']:>9.1f}"
            f"{row['share_of_gemm']:>9.1%}{row['cpu_s']:>8.1f}{gib(row['peak_rss_bytes']):>11}{gib(row['plan_bytes']):>11}{beside}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--models", default="gpt2,small")
    parser.add_argument("--mesh", action="store_true", help="two ranks: data, zero, tensor and pipeline parallel, beside DDP and FSDP2")
    parser.add_argument("--precision", default="fp32", help=f"of {', '.join(PRECISIONS)}; several with commas are run in turn")
    parser.add_argument("--out", default="bench.json")
    a = parser.parse_args()
    precisions = a.precision.split(",")
    if not set(precisions) <= set(PRECISIONS):
        parser.error(f"--precision {a.precision}: is not of {', '.join(PRECISIONS)}")
    cells = [(m, layout, p) for m in a.models.split(",") for layout in (MESH if a.mesh else SPEED) for p in precisions]
    results = {cell: dict(ours=[], peer=[]) for cell in cells}
    for _ in range(a.rounds):
        for cell in cells:
            results[cell]["ours"].append(ours(*cell, a.steps))
            if other := peer(*cell, a.steps):
                results[cell]["peer"].append(other)
    rows = [row_of(*cell, runs) for cell, runs in results.items()]
    print(HEADER)
    for row in rows:
        print(text_of(row))
    cpu = next((line.split(": ")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    write_results(a.out, cpu=cpu, cores=os.cpu_count(), rounds=a.rounds, rows=rows)


if __name__ == "__main__":
    main()
