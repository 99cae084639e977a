#!/usr/bin/env python3
"""Two ranks of which the second is slow, honestly: each has a core of its own, and on the second one's another process computes."""
import os
import shutil
import subprocess
import sys
import time


def unavailable():
    """Why it cannot be had here, or None."""
    if not shutil.which("taskset"):
        return "taskset is not there"
    cores = len(os.sched_getaffinity(0))
    return f"two cores are needed, there are {cores}" if cores < 2 else None


def busy_share(seconds):
    """What this machine computes in the next seconds, of what it can."""
    def ticks():
        numbers = [int(n) for n in open("/proc/stat").readline().split()[1:9]]
        return sum(numbers), numbers[3] + numbers[4]
    total, idle = ticks()
    time.sleep(seconds)
    total_then, idle_then = ticks()
    return 1 - (idle_then - idle) / max(1, total_then - total)


def disturbed(patience_s=60):
    """Why times would say nothing: other processes compute, for so long. Or None."""
    end = time.monotonic() + patience_s
    while (busy := busy_share(2)) > 0.15:
        if time.monotonic() > end:
            return f"other processes use {100 * busy:.0f} % of this machine"
    return None


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
