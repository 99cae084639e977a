#!/usr/bin/env python3
"""control_run.py CASE PLIMSOLL CONFIG FOLDER -- LAUNCHER…: what ranks do that were not started alike, or of which one hangs.
LAUNCHER ends where the number of ranks follows. Cases: handshake, hang."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from smoke_run import expect, write_text

case, plimsoll, config, folder, launcher = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[6:]
SHORT = ["train.steps=4", "schedule.warmup=1", "model.layers=2", "run.log_every=1", "run.eval_every=0", "run.save_every=0",
         "data.validation=0", "run.threads=1"]


def arguments(run, *overrides):
    overrides = [*SHORT, f"run.dir={folder}/{run}", f"data.train={folder}/tokens", *overrides]
    return [str(config), *[a for o in overrides for a in ("--set", o)]]


def refused(command, code, *parts):
    """The program prints one FATAL line, and it has `parts`."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=100)
    fatal = [line for line in done.stderr.splitlines() if "FATAL" in line]
    shown = f"{done.returncode}\n{done.stderr[-3000:]}"
    expect(done.returncode == code, f"exit code is not {code}: {shown}")
    expect(len(fatal) == 1 and all(part in fatal[0] for part in parts), f"not one line with {parts}: {shown}")


def handshake():
    one = [*launcher, "1", plimsoll, "train", *arguments("configs")]
    other = [":", "-n", "1", plimsoll, "train", *arguments("configs", "optimizer.lr=0.5", "run.seed=7")]
    refused([*one, *other], 76, "about the configuration: rank(s) 1 differ from 1 of 2: optimizer.lr is 0.001 on rank 0 "
            "and 0.5 on rank 1")
    copy = folder / "plimsoll_copy"
    shutil.copy(plimsoll, copy)
    with open(copy, "ab") as stream:
        stream.write(b"another build")
    refused([*launcher, "3", plimsoll, "train", *arguments("builds"), ":", "-n", "1", copy, "train", *arguments("builds")], 76,
            "about the build: rank(s) 3 differ from 3 of 4")


def main():
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_text(folder / "text.txt")
    subprocess.run([plimsoll, "data", "prepare", folder / "text.txt", "--out", folder / "tokens", "--tokenizer", "byte"],
                   check=True, stdout=subprocess.DEVNULL)
    {"handshake": handshake}[case]()


if __name__ == "__main__":
    main()
