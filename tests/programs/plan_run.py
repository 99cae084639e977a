#!/usr/bin/env python3
"""plan_run.py PLIMSOLL CLUSTER FOLDER -- LAUNCHER…: a run that follows the plan that `plan --out` wrote (train --plan) has its layout, its
recomputation and its bytes, also where it would have chosen others; what is another run is refused before it leaves anything."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from training_runs import Runs, call, run, sets

CONFIG = """
model: {{family: gpt2, layers: 4, hidden: 48, heads: 4, positions: 64}}
data: {{train: {0}/text, validation: 0.1, sequence: 32}}
train: {{steps: 4, global_batch: 16, micro_batch: auto, eval_batches: 2}}
optimizer: {{lr: 3e-3}}
parallel: auto
memory: {{reserve: 1 GiB, recompute: auto}}
run: {{seed: 3, log_every: 1, eval_every: 4, save_every: 4}}
"""
BINDING = ["arena_bytes", "class_bytes", "persistent", "programs", "ranks"]

plimsoll, cluster, folder, launcher = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[5:]


def refused(code, text, plan, *settings, ranks=2):
    done = call(*launcher, ranks, plimsoll, "train", runs.config, "--plan", plan, *sets([f"run.dir={folder}/refused", *settings]))
    if done.returncode != code or text not in done.stderr or (folder / "refused").exists():
        sys.exit(f"{settings}: exit code {done.returncode}, expected {code} and '{text}'\n{done.stderr}")


def plan(name, *arguments):
    file = folder / name
    run(plimsoll, "plan", runs.config, "--ranks", 2, "--out", file, *arguments)
    return file, json.loads(file.read_text())


def follow(name, file, planned, *settings):
    run(*launcher, 2, plimsoll, "train", runs.config, "--plan", file, *sets([f"run.dir={folder / name}", *settings]))
    made = runs.read(name, "plan.json")
    for theirs, mine in zip(planned["roles"], made["roles"], strict=True):
        if any(theirs[key] != mine[key] for key in BINDING):
            sys.exit(f"{name}: {theirs}\nwas planned, and the run has {mine}")
    for key in ["parallel", "micro_batch", "mesh"]:
        if planned[key] != made[key]:
            sys.exit(f"{name}: {key} {planned[key]}, and the run has {made[key]}")
    if planned["recompute"]["layers"] != made["recompute"]["layers"]:
        sys.exit(f"{name}: recomputes {made['recompute']}, planned: {planned['recompute']}")
    arenas = {rank: role["arena_bytes"] for role in planned["roles"] for rank in role["ranks"]}
    for rank in runs.read(name, "summary.json")["ranks"]:
        if not rank["planned_bytes"] == rank["arena_high_water_bytes"] == arenas[rank["rank"]]:
            sys.exit(f"{name}: {rank}")
    return made


runs = Runs(plimsoll, folder, CONFIG)
file, chosen = plan("chosen.json", "--threads", 1)


# Without --out the plan lies in the working directory; what is there and no such plan stays, which does not spoil the answer.
def plan_in(place, code, *arguments):
    place.mkdir(exist_ok=True)
    done = call(plimsoll, "plan", runs.config, "--ranks", 2, "--threads", 1, *arguments, cwd=place)
    if done.returncode != code:
        sys.exit(f"{place}: exit code {done.returncode}, expected {code}\n{done.stderr}")
    return done


here = folder / "here"
for times in range(2):
    if "plan.json: written" not in plan_in(here, 0).stdout or json.loads((here / "plan.json").read_text()) != chosen:
        sys.exit(f"{here}/plan.json is another plan than --out writes")
    (here / "plan.json").write_text((folder / "chosen.json").read_text())
follow("as_planned", here / "plan.json", chosen)
plan_in(folder / "nowhere", 0, "--out", "none")
plan_in(folder / "nowhere", 71, "--budget", "1025 MiB")
if list((folder / "nowhere").iterdir()):
    sys.exit(f"{folder}/nowhere has a plan that nobody asked for, or of what does not fit")
of_run = (folder / "as_planned" / "plan.json").read_text()
if "not from plimsoll plan" not in plan_in(folder / "as_planned", 0).stderr or (folder / "as_planned" / "plan.json").read_text() != of_run:
    sys.exit("the plan of a run was not left alone")
(folder / "taken" / "plan.json").mkdir(parents=True)
if "not from plimsoll plan" not in plan_in(folder / "taken", 0).stderr:
    sys.exit("a folder of that name was not noticed")
if "is a directory" not in plan_in(folder / "taken", 74, "--out", "plan.json").stderr.lower():
    sys.exit("why a plan that somebody asked for was not written is not said")
if len(list((folder / "taken").iterdir())) > 1:
    sys.exit("a plan that was not written has left a file")

# With a tenth of the activations less, which the run's own budget does not ask for.
one_layout = ["--threads", 1, "--cluster", cluster, "--set", "parallel={data: 2, zero: 1}", "--set", "train.micro_batch=8"]
_, free = plan("free.json", *one_layout)
file, less = plan("tight.json", *one_layout, "--budget", free["needed_bytes"] - free["class_bytes"]["activations"] // 10)
if not less["recompute"]["layers"] or less["arena_bytes"] >= free["arena_bytes"]:
    sys.exit(f"nothing is recomputed: {less['recompute']}")
made = follow("tight", file, less)
if made["links"] != "cluster" or made["threads"] != 1:
    sys.exit(f"{made['links']}, {made['threads']} threads")
# Sized by links that are others when the run starts.
links = folder / "cluster.yaml"
sized = ["--threads", 1, "--cluster", links, "--set", "parallel={data: 2, zero: 0}", "--set", "train.micro_batch=8"]
fast = Path(cluster).read_text()
links.write_text(fast)
sized_file, planned = plan("sized.json", *sized)
links.write_text(re.sub(r"inside: .latency_s: [^,]*", "inside: {latency_s: 1", fast))
_, otherwise = plan("otherwise.json", *sized)
if planned["buckets"]["bytes"] == otherwise["buckets"]["bytes"]:
    sys.exit(f"the links change nothing: {planned['buckets']}")
made = follow("sized", sized_file, planned)
if made["buckets"]["bytes"] != planned["buckets"]["bytes"]:
    sys.exit(f"{made['buckets']}, planned: {planned['buckets']}")

refused(78, "tight.json: is a plan for 2 rank(s), and this run has 1", file, ranks=1)
refused(78, "tight.json: was made for another run: model.hidden: 48 there, 64 here", file, "model.hidden=64")
refused(78, "tight.json: was made for another run: parallel.zero: 1 there, 0 here", file, "parallel={data: 2, zero: 0}")
# The bytes are the same, but not what was planned.
refused(78, "chosen.json: was made for another run: train.global_batch: 16 there, 32 here", folder / "chosen.json", "train.global_batch=32")
refused(78, "tight.json: was made for another run: memory.budget: ", file, "memory.budget=2 GiB")
refused(65, "run.yaml: is not a plan", runs.config)
for key, value in [("micro_batch", 0), ("micro_batch", -4), ("threads", 2**40), ("logits_bytes", "many"), ("roles", 3)]:
    broken = folder / "broken.json"
    broken.write_text(json.dumps({**chosen, key: value}))
    refused(65, f"broken.json: /{key} is {json.dumps(value)}, not ", broken)
refused(66, "nowhere.json: cannot be opened", folder / "nowhere.json")

def ends_with(code, *command):
    """Standard output, and the most bytes that the process had."""
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, error = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != code:
        sys.exit(f"{command}: exit code {os.waitstatus_to_exitcode(status)}, expected {code}\n{error}")
    return out, usage.ru_maxrss * 1024


# A run that cannot fit: the answer comes before anything is measured or allocated, and the reason is left for who starts runs again.
call(*launcher, 2, plimsoll, "train", runs.config, *sets(["parallel={data: 2, zero: 1}", f"run.dir={folder}/tight_budget", "memory.budget=1025 MiB"]))
large = sets(["model={preset: gpt2-1558m}", "data.sequence=1024", "memory={budget: 2 GiB}", "parallel={}", f"run.dir={folder}/large"])
_, peak = ends_with(71, plimsoll, "train", runs.config, *large)
# Plans that are compared need as much outside of the arena: what a machine remembers of that is of the last run of anybody.
asked = [*large, *sets(["memory.reserve=160 MiB"])]
said, planning = ends_with(71, plimsoll, "plan", runs.config, "--json", *asked)
if peak > planning + (100 << 20):
    sys.exit(f"{peak} bytes to find that nothing fits, {planning} to plan")
for name, ranks in [("tight_budget", 2), ("large", 1)]:
    # A rank that finds it a second before the others ends them before they say so too.
    left = {p.name for p in (folder / name).iterdir()}
    if not left or not left <= {f"exit_reason.{rank}.json" for rank in range(ranks)}:
        sys.exit(f"{name}: {left}")
    for reason in left:
        if runs.read(name, reason)["code"] != 71:
            sys.exit(f"{runs.read(name, reason)}")
said = json.loads(said)["infeasible"]
if said["missing_bytes"] <= 0 or said["needed_bytes"] - said["missing_bytes"] != 2 << 30 or said["budget_bytes"] != 2 << 30:
    sys.exit(f"{said}")
if not 0 < said["bound_bytes"] <= said["needed_bytes"]:
    sys.exit(f"{said}")
# A change of each verdict, typed.
changes = said["changes"]
for change in [next(c for c in changes if c["fits"]), next(c for c in changes if not c["fits"]), changes[-1]]:
    typed = ["--json", "--ranks", change["ranks"], *asked, *sets(change["set"])]
    report = json.loads(ends_with(0 if change["fits"] else 71, plimsoll, "plan", runs.config, *typed)[0])
    if report["needed_bytes"] != change["needed_bytes"]:
        sys.exit(f"{change} was said, and the plan needs {report['needed_bytes']}")

# Ranks that the cluster does not have, of a layout that was given as of one that is chosen.
links.write_text(fast.replace("nodes: auto", "nodes: 1"))
for layout in ["parallel=auto", "parallel={data: 32}"]:
    ends_with(78, plimsoll, "plan", runs.config, "--ranks", 32, "--cluster", links, *sets([layout, "train.global_batch=32"]))

# Every plan says what a step takes, and with whose times.
staged = ["--ranks", 4, *sets(["parallel={pipeline: 4}", "train.micro_batch=2", "memory.budget=2 GiB"])]
for more, costs in [([], "times: "), (["--cluster", cluster], "times: those of cpu core")]:
    text = run(plimsoll, "plan", runs.config, *staged, *more)
    for words in ["predicted step ", " MFU ", " bubble ", " exposed communication ", " schedule 1f1b; ", costs]:
        if words not in text:
            sys.exit(f"plan {more} does not say '{words}':\n{text}")
    run(plimsoll, "plan", runs.config, "--out", folder / "staged.json", *staged, *more)
    for report in [json.loads(run(plimsoll, "plan", runs.config, "--json", *staged, *more)), json.loads((folder / "staged.json").read_text())]:
        step = report["step"]
        if not (step["step_ms"] > 0 and 0 < step["mfu"] < 1 and 0 < step["bubble"] < 1 and step["exposed_ms"] >= 0):
            sys.exit(f"{step}")
        if step["schedule"] != "1f1b" or costs not in step["costs"]:
            sys.exit(f"{step}")

# The whole step in one file, of the rank that is asked for: eight micro-batches in four stages.
charts = []
for rank in [[], ["--rank", 0], ["--rank", 3]]:
    run(plimsoll, "plan", runs.config, "--svg", folder / "step.svg", *staged, *rank)
    charts.append((folder / "step.svg").read_text())
    ElementTree.fromstring(charts[-1])
    actions = {(kind, m) for m in range(8) for kind in ["forward", "backward"]}
    for kind, m in actions:
        if charts[-1].count(f"<title>{kind} of micro-batch {m}, chunk 0, slot") != 4:
            sys.exit(f"{kind} of micro-batch {m} is not in 4 stages of the chart")
    if "budget 2.00 GiB" not in charts[-1] or "activations, at most" not in charts[-1]:
        sys.exit("the chart has no memory under the budget")
if charts[1] == charts[2] or charts[0] not in charts[1:]:
    sys.exit("--rank chooses nothing")
ends_with(64, plimsoll, "plan", runs.config, "--rank", 0)
print(f"{free['arena_bytes']} and {less['arena_bytes']} bytes as planned")
