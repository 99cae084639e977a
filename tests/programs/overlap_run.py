#!/usr/bin/env python3
"""overlap_run.py PLIMSOLL SCRIPTS FOLDER: two ranks on two hosts (network namespaces) over a slow link. With overlap, communication runs
beside compute in the trace of each rank, and not without; losses and bytes are the same, the arena is as planned."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[2])
from slow_link import SlowLink, overlapped_seconds, unavailable  # noqa: E402

CONFIG = """
model: {{family: gpt2, layers: 2, hidden: 512, heads: 4, positions: 128}}
data: {{train: {0}/text, validation: 0, sequence: 128}}
train: {{steps: 2, global_batch: 8, micro_batch: 4}}
optimizer: {{lr: 3e-3}}
run: {{seed: 3, log_every: 1, eval_every: 0, save_every: 0, threads: 1}}
"""
LAYOUTS = {"zero_0": ["comm.bucket=1MiB"], "zero_3": ["parallel.zero=3"],
           "tensor": ["parallel.tensor=2", "parallel.sequence=false", "parallel.tensor_chunks=4"],
           "sequence": ["parallel.tensor=2", "parallel.sequence=true", "parallel.tensor_chunks=4"]}


def train(link, plimsoll, folder, name, settings):
    run = folder / name
    command = [plimsoll, "train", folder / "run.yaml"]
    for s in [f"run.dir={run}", f"run.trace={run}.trace", *settings]:
        command += ["--set", s]
    done = subprocess.run(link.mpirun(*command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100)
    if done.returncode != 0:
        sys.exit(f"{name}: exit code {done.returncode}\n{done.stdout}")
    ranks = json.loads((run / "summary.json").read_text())["ranks"]
    for rank in ranks:
        if rank["planned_bytes"] != rank["arena_high_water_bytes"] or rank["allocations_after_first_step"] != 0:
            sys.exit(f"{name}: {rank}")
    traces = [json.loads(Path(f"{run}.trace.{r}").read_text())["traceEvents"] for r in range(len(ranks))]
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    return losses, ranks[0]["collective_bytes"], [overlapped_seconds(t) for t in traces]


def main():
    plimsoll, folder = sys.argv[1], Path(sys.argv[3])
    if why := unavailable():
        print(f"skipped: {why}")
        return 77
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "text.txt").write_text("the ship is loaded to the line and no deeper\n" * 800)
    subprocess.run([plimsoll, "data", "prepare", folder / "text.txt", "--out", folder / "text", "--tokenizer", "char"], check=True)
    (folder / "run.yaml").write_text(CONFIG.format(folder))
    with SlowLink("500mbit") as link:
        for name, settings in LAYOUTS.items():
            on = train(link, plimsoll, folder, f"{name}_on", settings)
            off = train(link, plimsoll, folder, f"{name}_off", [*settings, "comm.overlap=false"])
            if on[:2] != off[:2]:
                sys.exit(f"{name}: {on}, without overlap {off}")
            for (compute, communication, both), (_, _, none) in zip(on[2], off[2], strict=True):
                print(f"{name}: {compute:.3f} s compute, {communication:.3f} s communication, {both:.3f} s of both, {none:.6f} s without overlap")
                if both < 0.1 * min(compute, communication):
                    sys.exit(f"{name}: communication does not run beside compute")
                if none > 1e-6:  # traces are in microseconds
                    sys.exit(f"{name}: without overlap, communication runs beside compute")
    return 0


sys.exit(main())
