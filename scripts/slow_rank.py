#!/usr/bin/env python3
"""Two ranks of which the second is slow, honestly: each has a core of its own, and on the second one's another process computes."""
import os
import shutil
import subprocess
import sys


def unavailable():
    """Why it cannot be had here, or None."""
    if not shutil.which("taskset"):
        return "taskset is not there"
    cores = len(os.sched_getaffinity(0))
    return f"two cores are needed, there are {cores}" if cores < 2 else None


class SlowRank:
    """with SlowRank() as ranks: subprocess.run(ranks.mpirun("plimsoll", "train", …)). `rivals` processes compute on the second core."""

    def __init__(self, rivals=1, seconds=1800):
        self.cores = sorted(os.sched_getaffinity(0))[:2]
        self.rivals, self.seconds = rivals, seconds  # they end by themselves if this process is killed
        self.running = []

    def on_core(self, rank, *command):
        return ["taskset", "-c", str(self.cores[rank]), *map(str, command)]

    def __enter__(self):
        busy = self.on_core(1, sys.executable, "-c", "while True: pass")
        self.running = [subprocess.Popen(["timeout", str(self.seconds), *busy]) for _ in range(self.rivals)]
        return self

    def __exit__(self, *_):
        for process in self.running:
            process.terminate()
            process.wait()

    def mpirun(self, *command):
        return ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", "1", *self.on_core(0, *command), ":",
                "-n", "1", *self.on_core(1, *command)]
