#!/usr/bin/env python3
"""pipeline_run.py PLIMSOLL FOLDER -- LAUNCHER…: trains a small model on one rank and, under LAUNCHER, over two stages with
each schedule. The losses are those of one rank, those of the schedules are each other's, the arena is as planned."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

CONFIG = """
model: {{family: gpt2, layers: 4, hidden: 48, heads: 4, positions: 64}}
data: {{train: {0}/text, validation: 0.1, sequence: 32}}
train: {{steps: 8, global_batch: 8, micro_batch: 2, eval_batches: 2}}
optimizer: {{lr: 3e-3}}
run: {{seed: 3, log_every: 1, eval_every: 4, save_every: 4, threads: 1}}
"""


def run(*command):
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100)
    if done.returncode != 0:
        sys.exit(f"{command}: exit code {done.returncode}\n{done.stdout}")


def planned(plimsoll, folder, ranks, settings):
    """By rank, what `plan` says that each holds."""
    command = [plimsoll, "plan", folder / "run.yaml", "--ranks", ranks, "--json", *[a for s in settings for a in ("--set", s)]]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=100)
    if done.returncode != 0:
        sys.exit(f"{command}: exit code {done.returncode}\n{done.stderr}")
    return {rank: role for role in json.loads(done.stdout)["roles"] for rank in role["ranks"]}


def check_plan(plimsoll, folder, name, ranks, settings):
    """`plan` and `train` agree to the byte on every rank, and so does plan.json."""
    by_rank = planned(plimsoll, folder, ranks, settings)
    written = {rank: role for role in json.loads((folder / name / "plan.json").read_text())["roles"] for rank in role["ranks"]}
    summary = json.loads((folder / name / "summary.json").read_text())["ranks"]
    if [r["rank"] for r in summary] != list(range(ranks)) or sorted(by_rank) != list(range(ranks)) or sorted(written) != sorted(by_rank):
        sys.exit(f"{name}: ranks {summary}, planned {sorted(by_rank)}")
    for trained in summary:
        for role in (by_rank[trained["rank"]], written[trained["rank"]]):
            classes = {c: trained[c] for c in role["class_bytes"]}
            if role["planned_bytes"] != trained["planned_bytes"] or role["class_bytes"] != classes:
                sys.exit(f"{name}: planned {role['planned_bytes']}, {role['class_bytes']}, trained with {trained}")


def train(plimsoll, folder, name, launcher, settings):
    command = [*launcher, plimsoll, "train", folder / "run.yaml", "--set", f"run.dir={folder / name}"]
    for s in settings:
        command += ["--set", s]
    run(*command)
    for rank in json.loads((folder / name / "summary.json").read_text())["ranks"]:
        if rank["planned_bytes"] != rank["arena_high_water_bytes"] or rank["allocations_after_first_step"] != 0:
            sys.exit(f"{name}: {rank}")
    rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    return [r["loss"] for r in rows if "loss" in r], [r["validation_loss"] for r in rows if "validation_loss" in r]


def check_trace(folder, settings):
    """What the stages sent each other, as their traces have it: with axis, bytes and micro-batch, on both sides."""
    sides = []
    for rank in range(2):
        events = json.loads((folder / f"trace.{rank}").read_text())["traceEvents"]
        messages = [e for e in events if e["cat"] == "message" and e["args"]["program"] == "train"]
        actions = [e for e in events if e["tid"] == "schedule"]
        if not actions or {e["tid"].split()[0] for e in messages} != {"send", "receive"}:
            sys.exit(f"{settings}: a trace without messages or actions")
        collectives = [e for e in events if e["tid"] == "communication"]
        if not collectives or any(e["args"]["bytes"] <= 0 or e["args"]["axis"] not in ("pipeline", "embedding") for e in collectives):
            sys.exit(f"{settings}: collectives without axis or bytes: {collectives[:3]}")
        # By (receiver, axis): the names of messages in their order.
        sides.append({(1 - rank if op == "send" else rank, axis): [(e["name"], e["args"]["bytes"], e["args"]["micro_batch"]) for e in messages
                                                                   if e["args"]["op"] == op and e["args"]["axis"] == axis]
                      for op in ("send", "receive") for axis in ("pipeline", "pipeline_back")})
    if sides[0] != sides[1] or not all(b > 0 and 0 <= m < 4 for side in sides[0].values() for _, b, m in side):
        sys.exit(f"{settings}: what one stage sent is not what the other received: {sides}")


def check_budget(plimsoll, folder, launcher):
    """A budget that some stages keep and one does not: refused by `plan` and `train` alike, with the stage's name."""
    settings = ["parallel.pipeline=2", "parallel.stages=[1,3]", "memory.reserve=1000", "train.micro_batch=2", "memory.logits=64KiB"]
    by_rank = planned(plimsoll, folder, 2, settings)
    needs = [by_rank[rank]["needed_bytes"] for rank in range(2)]
    if needs[0] == needs[1]:
        sys.exit(f"the stages need the same: {needs}")
    most = needs.index(max(needs))
    tight = [a for s in [*settings, f"memory.budget={max(needs) - 1}", f"run.dir={folder}/tight"] for a in ("--set", s)]
    for command in ([plimsoll, "plan", folder / "run.yaml", "--ranks", 2, *tight],
                    [*launcher, plimsoll, "train", folder / "run.yaml", *tight]):
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=100)
        if done.returncode != 71 or f"stage {most} (rank {most}): the run needs" not in done.stderr:
            sys.exit(f"{command}: exit code {done.returncode}\n{done.stderr}")


def main():
    split = sys.argv.index("--")
    plimsoll, folder, launcher = sys.argv[1], Path(sys.argv[2]), sys.argv[split + 1:]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "text.txt").write_text("the ship is loaded to the line and no deeper\n" * 400)
    run(plimsoll, "data", "prepare", folder / "text.txt", "--out", folder / "text", "--tokenizer", "char")
    (folder / "run.yaml").write_text(CONFIG.format(folder))
    one = train(plimsoll, folder, "one", [], [])
    losses = {}
    for schedule in ["gpipe", "1f1b", "zb-h1", "interleaved"]:
        got = train(plimsoll, folder, schedule, launcher,
                    ["parallel.pipeline=2", f"parallel.schedule={schedule}", f"run.trace={folder}/trace"])
        check_trace(folder, schedule)
        check_plan(plimsoll, folder, schedule, 2, ["parallel.pipeline=2", f"parallel.schedule={schedule}"])
        losses[schedule] = got
        for mine, theirs in zip(got[0] + got[1], one[0] + one[1], strict=True):
            if abs(mine - theirs) > 1e-5 * theirs:
                sys.exit(f"{schedule}: {got}, one rank: {one}")
    if losses["gpipe"] != losses["1f1b"] or losses["gpipe"] != losses["zb-h1"]:
        sys.exit(f"schedules differ: {losses}")
    four = [*launcher[:-1], 4]
    for name, settings in {"four": ["parallel.pipeline=4", "parallel.schedule=zb-h1"],
                           "two_by_two": ["parallel.pipeline=2", "parallel.zero=1"],
                           "tensor": ["parallel.pipeline=2", "parallel.tensor=2", "model.vocabulary=53"]}.items():
        train(plimsoll, folder, name, four, settings)
        check_plan(plimsoll, folder, name, 4, settings)
    check_budget(plimsoll, folder, launcher)
    print(f"{len(one[0])} losses of {', '.join(losses)} are those of one rank")


main()
