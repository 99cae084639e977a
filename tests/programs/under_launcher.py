#!/usr/bin/env python3
"""under_launcher.py PLIMSOLL CONFIG FOLDER -- LAUNCHER… N: what a person sees of several ranks. A failure that all ranks find is
printed once and leaves a reason file of each; progress that goes to a file is plain lines; a later run that succeeds removes the
reason files; `plan` says to the byte what `train` uses."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path


def expect(condition, what):
    if not condition:
        sys.exit(f"under_launcher: {what}")


def call(*command):
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                          timeout=100)
    print("+", *command, "->", done.returncode, flush=True)
    return done


def check_failure(launcher, program, overrides, code, text):
    done = call(*launcher, *program, *overrides)
    fatal = [line for line in (done.stdout + done.stderr).splitlines() if "FATAL" in line]
    expect(done.returncode == code, f"exit code {done.returncode} instead of {code}:\n{done.stderr}")
    expect(len(fatal) == 1, f"{len(fatal)} lines instead of one: {fatal}")
    expect(f"code={code}" in fatal[0] and "rank=0" in fatal[0] and text in fatal[0], f"{fatal[0]} does not say {text}")


def main():
    plimsoll, config, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    launcher, ranks = sys.argv[5:], int(sys.argv[-1])
    shutil.rmtree(folder, ignore_errors=True)
    run = folder / "run"
    run.mkdir(parents=True)
    (folder / "text.txt").write_text("in the beginning god created the heaven and the earth. " * 800)
    expect(call(plimsoll, "data", "prepare", folder / "text.txt", "--out", folder / "tokens").returncode == 0, "prepare")

    sets = [f"run.dir={run}", f"data.train={folder}/tokens", "train.steps=6", "schedule.warmup=2", "run.log_every=2",
            "train.eval_batches=1"]
    program = [plimsoll, "train", config, *[a for s in sets for a in ("--set", s)]]
    check_failure(launcher, program, ["--set", "model.layres=3"], 78, "did you mean 'layers'?")
    check_failure(launcher, program, ["--set", f"data.train={folder}/none"], 66, "none.bin")
    check_failure(launcher, program, ["--set", "memory.budget=1GiB", "--set", "memory.reserve=1023MiB"], 71, "memory.budget is 1.00 GiB")
    check_failure(launcher, program, ["--set", "memory.reserve=1000"], 71, "memory.reserve: is 1000 B")
    expect(len(list(run.glob("exit_reason.*.json"))) == ranks, f"reason files: {list(run.iterdir())}")
    apart = [*launcher[:-1], "1", *program, ":", launcher[-2], "1", *program]
    check_failure([], apart, ["--set", "optimizer.lr=0.5"], 76, "rank(s) 1 differ")

    done = call(*launcher, *program)
    expect(done.returncode == 0, done.stderr)
    expect("\r" not in done.stdout and "\x1b" not in done.stdout, "a bar went into a file")
    steps = re.findall(r"^step (\d)/6  loss ", done.stdout, re.M)
    expect(steps == ["2", "4", "6"], f"lines of steps {steps}")
    # Replicas of two ranks send half of the sums of gradients, loss and norm twice; of steps alone, however many and however often saved.
    sent = [r["collective_bytes_per_step"] for r in json.loads((run / "summary.json").read_text())["ranks"]]
    table = done.stdout[done.stdout.index("sent per rank and step, bytes"):].splitlines()
    expect(re.split(r"\s+", table[1].strip()) == ["data", *(f"{s['data']:,}" for s in sent)], f"bytes of the data axis: {table[:3]}")
    gradients = next(p["bytes"] for p in json.loads((run / "plan.json").read_text())["persistent"] if p["name"] == "gradients")
    expect(all(gradients <= s["data"] <= gradients + 64 and s["world"] == 0 for s in sent), f"{gradients} of gradients: {sent}")
    expect("MFU is of" in done.stdout and "checkpoint: " in done.stdout, "there is no summary")
    # What stands between the launcher and the program has a terminal for its output, too.
    between = call(*launcher, "timeout", "60", "bash", "-c", '"$@"; exit', "bash", *program, "--set", f"run.dir={folder}/between")
    expect(between.returncode == 0, between.stderr)
    expect("\r" not in between.stdout and "\x1b" not in between.stdout, "a bar went into a file behind a shell")
    expect(not list(run.glob("exit_reason.*.json")), "reason files of the failures are left")
    usage = call(*launcher, plimsoll, "trian")
    expect(usage.returncode == 64 and (usage.stdout + usage.stderr).count("did you mean 'train'?") == 1, "usage is printed once")

    trained = json.loads((run / "summary.json").read_text())["ranks"][0]["planned_bytes"]
    plan = call(*program[:1], "plan", *program[2:], "--ranks", str(ranks), "--json")
    expect(plan.returncode == 0 and json.loads(plan.stdout)["planned_bytes"] == trained, f"train used {trained}: {plan.stdout}")
    # Another number of ranks reads the configuration that the run left.
    evaluation = call(plimsoll, "eval", run / "config.yaml", "--json")
    expect(evaluation.returncode == 0 and json.loads(evaluation.stdout)["whole_split"], evaluation.stderr)


if __name__ == "__main__":
    os.environ.pop("PLIMSOLL_PROGRESS", None)
    main()
