#!/usr/bin/env python3
"""A program that was built with CUDA, as a user meets it.
    cuda_run.py without_gpu PLIMSOLL FOLDER -- LAUNCHER…   no GPU is visible: it trains on the CPU, with none of CUDA's libraries loaded;
                                                           device: cuda ends with 69 and the reason, which is printed once
    cuda_run.py budget PLIMSOLL FOLDER                     on a GPU (without one it ends with 77): the device's memory, as the driver
                                                           counts it, stays within memory.budget, also where that asks for
                                                           recomputation, which changes no loss"""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

from training_runs import Runs, call, run, sets

CONFIG = """
model: {{family: gpt2, layers: 6, hidden: 512, heads: 8, positions: 512}}
data: {{train: {0}/text, validation: 0.1, sequence: 512}}
train: {{steps: 60, global_batch: 16, micro_batch: 8, eval_batches: 1}}
optimizer: {{lr: 1e-3}}
memory: {{logits: 16 MiB}}
plan: {{profile: off}}
run: {{seed: 3, log_every: 20, eval_every: 30, save_every: 0, threads: 1}}
"""
TINY = ["model.layers=2", "model.hidden=32", "model.heads=2", "model.positions=32", "data.sequence=32", "train.steps=4", "train.global_batch=4",
        "train.micro_batch=2"]
NO_GPU, SKIPPED = 69, 77
UNUSABLE = "built, but not to be used here: device: cuda: "
MIB = 1 << 20
OF_CUDA = re.compile(r"lib(plimsoll_cuda|cudart|cublas|cublasLt|cudnn\w*|nccl|cuda|nvidia-ml)\.so")


def loaded(runs, name, *command):
    """What came of a command, and the libraries of CUDA that its processes loaded, as the loader lists them."""
    log = runs.folder / f"loader.{name}"
    os.environ.update(LD_DEBUG="files", LD_DEBUG_OUTPUT=str(log))
    done = call(*command)
    for variable in ("LD_DEBUG", "LD_DEBUG_OUTPUT"):
        del os.environ[variable]
    files = list(runs.folder.glob(f"{log.name}.*"))
    if not files:
        sys.exit(f"{command}: the loader wrote no list")
    return done, {name.group(1) for file in files for name in OF_CUDA.finditer(file.read_text(errors="replace"))}


def without_gpu(plimsoll, folder, launcher):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    runs = Runs(plimsoll, folder, CONFIG)
    train = [plimsoll, "train", runs.config, *sets(TINY)]
    done, libraries = loaded(runs, "cpu", *train, *sets([f"run.dir={folder / 'cpu'}"]))
    if done.returncode != 0 or libraries:
        sys.exit(f"a run on the CPU: exit code {done.returncode}, loaded {libraries}\n{done.stdout}{done.stderr}")
    on_gpu = [*train, *sets(["device=cuda", f"run.dir={folder / 'gpu'}"])]
    done, libraries = loaded(runs, "gpu", *on_gpu)
    reason = r"device: cuda: (this machine has no NVIDIA driver \(libcuda\.so\.1\)|the driver shows no GPU: CUDA_VISIBLE_DEVICES is '')"
    if done.returncode != NO_GPU or "plimsoll_cuda" not in libraries or not re.search(reason, done.stderr):
        sys.exit(f"device: cuda: exit code {done.returncode}, loaded {libraries}\n{done.stdout}{done.stderr}")
    ranks = call(*launcher, *on_gpu)
    if ranks.returncode != NO_GPU or len(re.findall(reason, ranks.stdout + ranks.stderr)) != 1:
        sys.exit(f"device: cuda on ranks: exit code {ranks.returncode}\n{ranks.stdout}{ranks.stderr}")
    info = run(plimsoll, "info")
    if UNUSABLE not in info:
        sys.exit(f"info: {info}")
    # The libraries say their versions without a driver; what a build has not is none.
    libraries = re.search(r'cuda_libraries +\["CUDA runtime \d+\.\d", ?"CUDA driver [^"]+", ?"cuBLAS \d+\.\d+\.\d+", ?"cuDNN [^"]+", ?"NCCL [^"]+"\]', info)
    if not libraries:
        sys.exit(f"info: {info}")
    print(libraries.group(0))
    print(done.stderr.strip().splitlines()[-1])


class DriverMemory:
    """The most that the driver says is used of the GPU that the run has, in bytes, while this is open."""

    def __init__(self):
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        self.query = ["nvidia-smi", "-i", gpu, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        self.least = self.most = int(run(*self.query)) * MIB

    def __enter__(self):
        self.process = subprocess.Popen([*self.query, "--loop-ms=20"], stdout=subprocess.PIPE, text=True)
        self.thread = threading.Thread(target=self.read)
        self.thread.start()
        return self

    def read(self):
        for line in self.process.stdout:
            self.most = max(self.most, int(line) * MIB)

    def __exit__(self, *_):
        self.process.terminate()
        self.thread.join()
        self.process.wait()

    def of_the_run(self):
        return self.most - self.least


def within_budget(runs, name, budget):
    """Trains; the losses, the plan and what the run had of the device."""
    settings = ["device=cuda", "precision=bf16", f"memory.budget={budget}B"]
    with DriverMemory() as driver:
        losses = runs.train(name, settings)
    rank = runs.read(name, "summary.json")["ranks"][0]
    used = driver.of_the_run()
    print(f"{name}: budget {budget:,}; the driver counted {used:,}, of which the run knows {rank['peak_process_bytes']:,}: "
          f"{rank['planned_bytes']:,} planned, {rank['outside_arena_bytes']:,} outside the arena")
    if not rank["planned_bytes"] <= rank["peak_process_bytes"] <= budget or rank["over_budget_bytes"] != 0:
        sys.exit(f"{name}: {rank}")
    if not rank["planned_bytes"] <= used <= budget:  # less than the arena: the driver was not asked in time
        sys.exit(f"{name}: the driver counted {used:,} bytes, the budget is {budget:,}, the arena {rank['planned_bytes']:,}")
    return losses, runs.read(name, "plan.json")


def budget(plimsoll, folder):
    # Decided before the runs begin, as in tests/support/missing_gpu.hpp: a device that fails them fails the test.
    missing = re.search(UNUSABLE + ".*", run(plimsoll, "info"))
    if missing and "PLIMSOLL_GPU_REQUIRED" not in os.environ:
        print(f"skipped: {missing.group(0)}")
        return SKIPPED
    runs = Runs(plimsoll, folder, CONFIG)
    losses, whole = within_budget(runs, "whole", 16 << 30)
    if whole["recompute"]["layers"]:
        sys.exit(f"recomputation without need: {whole['recompute']}")
    # As much as that run had, but for half of its activations; what a process has outside its arena differs a little.
    tight = whole["outside_arena_bytes"] + 16 * MIB + whole["arena_bytes"] - whole["class_bytes"]["activations"] // 2
    again, plan = within_budget(runs, "tight", tight)
    if not plan["recompute"]["layers"]:
        sys.exit(f"no recomputation within {tight:,}: {plan['recompute']}")
    if again != losses:
        sys.exit(f"losses {again} with recomputation, {losses} without")
    return 0


case, plimsoll, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
sys.exit(without_gpu(plimsoll, folder, sys.argv[5:]) if case == "without_gpu" else budget(plimsoll, folder))
