#!/usr/bin/env python3
"""shares_run.py CASE PLIMSOLL SCRIPTS FOLDER -- LAUNCHER…: replicas with other numbers of micro-batches, as a user meets them. Cases:
lists   the losses of one rank, the plan to the byte, evaluation where replicas run out of samples, what is refused
auto    shares by measured speed: in plan.json, the bits of the same list, kept by a run that goes on
slow    of two ranks one shares its core: it gets less, and steps are shorter by what was predicted (scripts/slow_rank.py)"""

import json
import shutil
import sys
from pathlib import Path

from training_runs import Runs, call, expect_near, sets

CONFIG = """
model: {{family: gpt2, layers: 4, hidden: 48, heads: 4, positions: 64, dropout: 0.1}}
data: {{train: {0}/text, validation: 0.1, sequence: 32}}
train: {{steps: 8, global_batch: 16, micro_batch: 1, eval_batches: 2}}
optimizer: {{lr: 3e-3}}
run: {{seed: 3, log_every: 1, eval_every: 4, save_every: 4, threads: 1}}
"""
STEPS = 8

case, plimsoll, scripts, folder, launcher = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), sys.argv[6:]


def train(name, ranks, settings):
    return runs.train(name, settings, [*launcher, ranks] if ranks > 1 else [])


def lists():
    one = train("one", 1, [])
    cases = {"two": (2, ["parallel.shares=[5, 11]"]), "zero": (3, ["parallel.shares=[1, 2, 13]", "parallel.zero=1"]),
             "stages": (4, ["parallel.pipeline=2", "parallel.schedule=gpipe", "parallel.shares=[4, 12]"])}
    for name, (ranks, settings) in cases.items():
        expect_near(name, train(name, ranks, settings), one)
        planned = runs.check_plan(name, ranks, settings)
        if name == "stages" and planned[0] >= planned[1]:
            sys.exit(f"4 and 12 micro-batches in flight need {planned}")
    # The micro-batch follows from the list; the validation split is shared evenly, also where that leaves a part of one.
    settings = ["parallel.shares=[1, 2]", "train.global_batch=6", "train.micro_batch=auto"]
    expect_near("three", train("three", 2, settings), train("six", 1, ["train.global_batch=6"]))
    # In the last validation step one rank has more samples than the other, which gathers parameters all the same.
    settings = ["train.eval_batches=auto", "model.dropout=0"]
    expect_near("validation", train("validation", 2, ["parallel.zero=3", *settings]), train("whole_split", 1, settings))
    for settings, text in {("parallel.shares=auto", "parallel.zero=2"): "0 or 1 with uneven shares",
                           ("parallel.shares=[5, 12]",): "17 micro-batches of 1 are 17 sequences"}.items():
        done = call(*launcher, 2, plimsoll, "train", runs.config, *sets([f"run.dir={folder}/refused", *settings]))
        if done.returncode != 78 or "parallel.shares: " not in done.stderr or text not in done.stderr:
            sys.exit(f"{settings}: exit code {done.returncode}\n{done.stderr}")
    print(f"{', '.join(cases)}: {len(one)} losses of one rank")


def auto():
    for name, ranks, more in [("flat", 2, ["parallel.zero=1"]), ("stages", 4, ["parallel.pipeline=2"])]:
        got = train(name, ranks, ["parallel.shares=auto", *more])
        plan = runs.read(name, "plan.json")
        speed = plan["shares_by_speed"]
        if sum(plan["shares"]) != 16 or len(speed["micro_batch_ms"]) != 2 or min(speed["micro_batch_ms"]) <= 0 or speed["gain_ms"] < 0:
            sys.exit(f"{name}: shares {plan['shares']}: {speed}")
        if "shares: auto" not in (folder / name / "config.yaml").read_text():
            sys.exit(f"{name}: config.yaml has lost its auto")
        if train(f"{name}_list", ranks, [f"parallel.shares={plan['shares']}", *more]) != got:
            sys.exit(f"{name}: other bits than those of the list {plan['shares']}")
        go_on(name, ranks, more, got)
    print("auto has the bits of its list, and a run that goes on keeps it")


def go_on(name, ranks, more, want):
    """The second half again: bitwise with the shares of the plan, and with those that a plan names, whatever is measured now."""
    for again, shares in [("again", None), ("other", [4, 12])]:
        there = f"{name}_{again}"
        shutil.copytree(folder / name, folder / there)
        shutil.rmtree(folder / there / "checkpoints" / f"step_{STEPS:08d}")
        if shares:
            plan = runs.read(there, "plan.json")
            plan["shares"] = shares
            (folder / there / "plan.json").write_text(json.dumps(plan))
        got = train(there, ranks, ["parallel.shares=auto", *more])
        kept = runs.read(there, "plan.json")["shares"]
        if kept != (shares or runs.read(name, "plan.json")["shares"]):
            sys.exit(f"{there}: {kept}")
        if not shares and got != want:
            sys.exit(f"{there}: {got}, without the break {want}")
        expect_near(there, got, want)


def slow():
    sys.path.insert(0, scripts)
    import bench_shares
    import slow_rank
    if why := slow_rank.unavailable() or slow_rank.disturbed():
        print(f"skipped: {why}")
        sys.exit(77)
    # What else comes and goes on this machine slows the other rank too, or one run of a round: one of three must be undisturbed.
    rows = []
    while len(rows) < 3:
        rows += bench_shares.measure(1, 8, 12, 1, plimsoll, folder / "text")
        row = rows[-1]
        if sum(row["shares"]) == 24 and row["shares"][0] >= 14 and bench_shares.TARGET <= row["of_predicted"] <= 2 - bench_shares.TARGET:
            return
    sys.exit(f"of the predicted gain of a rank on half a core at least {bench_shares.TARGET} were to be had: {rows}")


runs = Runs(plimsoll, folder, CONFIG)
{"lists": lists, "auto": auto, "slow": slow}[case]()
