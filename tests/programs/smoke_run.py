#!/usr/bin/env python3
"""smoke_run.py PLIMSOLL CONFIG FOLDER -- LAUNCHER…: the main job, short. Prepares a text, trains CONFIG for 20 steps under
LAUNCHER in a new run directory, generates from it, and checks what a run directory holds."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

WORDS = "in the beginning god created heaven and earth without form void darkness was upon face of deep".split()
STEPS = 20
FILES = ["config.yaml", "plan.json", "metrics.jsonl", "summary.json"]
RANK_KEYS = ["budget_bytes", "planned_bytes", "arena_high_water_bytes", "outside_arena_bytes", "peak_process_bytes",
             "allocations_after_first_step"]
METRICS = {"step", "tokens", "loss", "lr", "grad_norm", "step_ms", "tokens_per_s"}


def expect(condition, what):
    if not condition:
        sys.exit(f"smoke_run: {what}")


def run(*command):
    print("+", *command, flush=True)
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, text=True, errors="replace", timeout=150)
    print(done.stdout, flush=True)
    expect(done.returncode == 0, f"exit code {done.returncode}")
    return done.stdout


def write_text(path):
    state, lines = 1, []
    for _ in range(6000):
        line = []
        for _ in range(10):
            state = (state * 1103515245 + 12345) % 2**31
            line.append(WORDS[(state >> 16) % len(WORDS)])
        lines.append(" ".join(line))
    path.write_text("\n".join(lines) + "\n")


def find_ranks(summary):
    """The per-rank records, under whatever key holds them."""
    for value in summary.values():
        if isinstance(value, list) and value and isinstance(value[0], dict) and "planned_bytes" in value[0]:
            return value
    return []


def check_run(folder, ranks):
    for name in FILES:
        expect((folder / name).is_file() and (folder / name).stat().st_size > 0, f"{folder / name}: missing or empty")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if "loss" in line]
    expect(train and METRICS <= train[-1].keys(), f"metrics.jsonl: keys {sorted(train[-1]) if train else []}")
    expect(train[-1]["loss"] < train[0]["loss"], f"the loss went from {train[0]['loss']} to {train[-1]['loss']}")
    evaluations = [line["validation_loss"] for line in lines if "validation_loss" in line]
    expect(evaluations and 0 < evaluations[-1] < 5.6, f"validation losses {evaluations}: uniform guessing is 5.55")
    summary = json.loads((folder / "summary.json").read_text())
    records = find_ranks(summary)
    expect(len(records) == ranks, f"summary.json: {len(records)} ranks instead of {ranks}")
    for record in records:
        expect(all(key in record for key in RANK_KEYS), f"summary.json: a rank has the keys {sorted(record)}")
        expect(record["arena_high_water_bytes"] == record["planned_bytes"] <= record["budget_bytes"],
               f"high water, plan and budget are out of order: {record}")
        expect(not any(record["measured_minus_planned_bytes"].values()), f"memory was not used as planned: {record}")
    checkpoints = sorted((folder / "checkpoints").glob("step_*"))
    expect(checkpoints and checkpoints[-1].name == f"step_{STEPS:08d}", f"checkpoints: {checkpoints}")


def main():
    plimsoll, config, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    launcher = sys.argv[5:]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_text(folder / "text.txt")
    run(plimsoll, "data", "prepare", folder / "text.txt", "--out", folder / "tokens", "--tokenizer", "byte")
    overrides = [f"run.dir={folder}/run", f"data.train={folder}/tokens", f"train.steps={STEPS}", "schedule.warmup=5",
                 "run.log_every=1", "run.eval_every=10", "run.save_every=10", "train.eval_batches=1"]
    run(*launcher, plimsoll, "train", config, *[a for o in overrides for a in ("--set", o)])
    check_run(folder / "run", int(launcher[-1]))
    text = run(plimsoll, "generate", folder / "run", "--prompt", "in the ", "--tokens", "40", "--seed", "1")
    expect(len(text) > len("in the ") + 10, "hardly any text was generated")


if __name__ == "__main__":
    main()
