#!/usr/bin/env python3
"""pipeline_run.py CASE PLIMSOLL FOLDER -- LAUNCHER…: two stages as a user meets them, beside one rank. Cases:
schedules   every schedule, a cut by list and outputs in parts: the losses of one rank, each other's bits, the arena as planned, messages in the traces
plans       `plan` and `train` agree to the byte on every rank, and on a budget that one stage does not keep
checkpoint  a run goes on from its checkpoint bitwise, on other meshes within 1e-6; another mesh evaluates and generates from it"""

import json
import shutil
import sys
from pathlib import Path

from training_runs import Runs, call, expect_near, run, sets

CONFIG = """
model: {{family: gpt2, layers: 4, hidden: 48, heads: 4, positions: 64}}
data: {{train: {0}/text, validation: 0.1, sequence: 32}}
train: {{steps: 8, global_batch: 8, micro_batch: 2, eval_batches: 2}}
optimizer: {{lr: 3e-3}}
run: {{seed: 3, log_every: 1, eval_every: 4, save_every: 4, threads: 1}}
"""
STEPS = 8

case, plimsoll, folder, launcher = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[5:]
MESHES = {"one": [], "stages": ["parallel.pipeline=2"], "replicas": ["parallel.data=2", "parallel.zero=1"],
          "tensor": ["parallel.tensor=2"]}


def train(name, settings, start=None):
    """Over two ranks unless the mesh is that of one."""
    return runs.train(name, settings, start or (launcher if settings else []))


def check_trace(settings):
    """What the stages sent each other, as their traces have it: with axis, bytes and micro-batch, on both sides."""
    sides = []
    for rank in range(2):
        events = json.loads((folder / f"{settings}.trace.{rank}").read_text())["traceEvents"]
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


def schedules():
    one = train("one", [])
    by_name = {}
    for schedule in ["gpipe", "1f1b", "zb-h1", "interleaved"]:
        by_name[schedule] = train(schedule, ["parallel.pipeline=2", f"parallel.schedule={schedule}",
                                          f"run.trace={folder / schedule}.trace"])
        check_trace(schedule)
        runs.check_plan(schedule, 2, ["parallel.pipeline=2", f"parallel.schedule={schedule}"])
    by_name["cut"] = train("cut", ["parallel.pipeline=2", "parallel.stages=[1, 3]"])
    by_name["parts"] = train("parts", ["parallel.pipeline=2", "comm.pipeline_chunks=4"])
    by_name["poison"] = train("poison", ["parallel.pipeline=2", "run.poison=true"])
    for name, got in by_name.items():
        expect_near(name, got, one, 1e-5)
        if got != by_name["gpipe"]:
            sys.exit(f"other bits: {name} {got}, gpipe {by_name['gpipe']}")
    layers = [runs.read(name, "summary.json")["ranks"][0]["planned_bytes"] for name in ["1f1b", "cut"]]
    if layers[0] <= layers[1]:
        sys.exit(f"bytes of a first stage of two layers and of one: {layers}")
    print(f"{len(one)} losses of {', '.join(by_name)} are those of one rank")


def plans():
    four = [*launcher[:-1], 4]
    for name, settings in {"four": ["parallel.pipeline=4", "parallel.schedule=zb-h1"],
                           "two_by_two": ["parallel.pipeline=2", "parallel.zero=1"],
                           "tensor": ["parallel.pipeline=2", "parallel.tensor=2", "model.vocabulary=53"]}.items():
        train(name, settings, four)
        runs.check_plan(name, 4, settings)
    check_budget()
    check_recompute()
    print("plan and train agree on every rank of four")


def check_budget():
    """A budget that some stages keep and one does not: refused by `plan` and `train` alike, with the stage's name."""
    settings = ["parallel.pipeline=2", "parallel.stages=[1,3]", "memory.reserve=1GiB", "train.micro_batch=2", "memory.logits=64KiB",
                "memory.recompute=none"]
    by_rank = runs.planned(2, settings)
    needs = [by_rank[rank]["needed_bytes"] for rank in range(2)]
    if needs[0] == needs[1]:
        sys.exit(f"the stages need the same: {needs}")
    most = needs.index(max(needs))
    tight = sets([*settings, f"memory.budget={max(needs) - 1}", f"run.dir={folder}/tight"])
    for command in ([plimsoll, "plan", runs.config, "--ranks", 2, *tight],
                    [*launcher, plimsoll, "train", runs.config, *tight]):
        done = call(*command)
        if done.returncode != 71 or f"stage {most} (rank {most}): the run needs" not in done.stderr:
            sys.exit(f"{command}: exit code {done.returncode}\n{done.stderr}")


def check_recompute():
    """memory.recompute: auto under a budget that stages keep only by it: the bits of a run that keeps everything, and what `plan` says."""
    settings = ["parallel.pipeline=2", "memory.reserve=1GiB", "train.micro_batch=2"]
    roles = runs.planned(2, settings)
    largest = max(roles.values(), key=lambda role: role["needed_bytes"])
    budget = largest["needed_bytes"] - largest["class_bytes"]["activations"] // 2
    tight = [*settings, f"memory.budget={budget}"]
    if train("recomputed", tight) != train("kept", settings):
        sys.exit("recomputation changed the bits of a pipeline")
    runs.check_plan("recomputed", 2, tight)
    plan = runs.read("recomputed", "plan.json")
    if plan["needed_bytes"] > budget or not plan["recompute"]["layers"] or "planner" not in plan["recompute"]:
        sys.exit(f"budget {budget}, planned {plan['needed_bytes']}: {plan['recompute']}")


def newest(name):
    return folder / name / "checkpoints" / f"step_{STEPS:08d}"


def checkpoint():
    whole = {mesh: train(mesh, settings) for mesh, settings in MESHES.items()}
    for mesh in ["replicas", "tensor", "one"]:
        for first, then in [("stages", mesh), (mesh, "stages")]:
            continue_on(first, then, whole[first])
    continue_on("stages", "stages", whole["stages"])
    # Another mesh evaluates what stages trained, and generates from it.
    losses, targets = {}, set()
    for mesh, settings in MESHES.items():
        start = launcher if settings else []
        config = sets([f"run.dir={folder / 'stages'}", *settings])
        evaluation = json.loads(run(*start, plimsoll, "eval", runs.config, *config, "--json"))
        losses[mesh] = evaluation["validation_loss"]
        targets.add(evaluation["targets"])
    if any(abs(loss - losses["one"]) > 1e-6 * losses["one"] for loss in losses.values()):
        sys.exit(f"validation losses {losses}")
    if len(targets) != 1:
        sys.exit(f"numbers of targets in the same split: {targets}")
    greedy = ["--prompt", "the ship", "--temperature", "0", "--tokens", "20"]
    texts = {mesh: run(plimsoll, "generate", folder / mesh, *greedy) for mesh in MESHES}
    if len(set(texts.values())) != 1:
        sys.exit(f"generated: {texts}")
    print(f"continued, evaluated {losses['one']} and generated on {', '.join(MESHES)}")


def continue_on(first, then, want):
    """The second half of a run on another mesh."""
    name = f"{first}_{then}"
    shutil.copytree(folder / first, folder / name)
    shutil.rmtree(newest(name))
    got = train(name, MESHES[then])
    if first != then:
        return expect_near(name, got, want, 1e-6)
    if got != want:
        sys.exit(f"{name}: {got}, without the break {want}")
    for file in ["model.safetensors", "optimizer.safetensors", "state.json"]:
        if (newest(name) / file).read_bytes() != (newest(first) / file).read_bytes():
            sys.exit(f"{name}: another {file}")


runs = Runs(plimsoll, folder, CONFIG)
{"schedules": schedules, "plans": plans, "checkpoint": checkpoint}[case]()
