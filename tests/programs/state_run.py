#!/usr/bin/env python3
"""state_run.py PLIMSOLL FOLDER -- LAUNCHER…: two ranks with other budgets, as a user meets them. The run does not fit while both have half of
the state, and does with parallel.state_shares: auto, to the byte as planned; its checkpoints go on with even shares, and those of an even run
with uneven ones, with the same bits."""

import json
import shutil
import sys
from pathlib import Path

from training_runs import call, run, sets

CONFIG = """
model: {{family: gpt2, layers: 3, hidden: 192, heads: 4, positions: 32}}
data: {{train: {0}/text, validation: 0.1, sequence: 32}}
train: {{steps: 8, global_batch: 4, micro_batch: 2, eval_batches: 2}}
optimizer: {{lr: 3e-3, clip: 0}}
run: {{seed: 3, log_every: 1, eval_every: 4, save_every: 4, threads: 1}}
memory: {{recompute: none, reserve: 1 GiB}}
"""
STEPS = 8
MIB = 1 << 20

plimsoll, folder, launcher = sys.argv[1], Path(sys.argv[2]), sys.argv[4:]


def command(name, settings):
    return *launcher, plimsoll, "train", folder / "run.yaml", *sets([f"run.dir={folder / name}", *settings])


def train(name, settings):
    """Losses and validation losses of the run directory `name`, whose ranks had what was planned."""
    run(*command(name, settings))
    plan, ranks = json.loads((folder / name / "plan.json").read_text()), json.loads((folder / name / "summary.json").read_text())["ranks"]
    planned = {rank: role["arena_bytes"] for role in plan["roles"] for rank in role["ranks"]}
    for rank in ranks:
        good = planned[rank["rank"]] == rank["planned_bytes"] == rank["arena_high_water_bytes"] and rank["allocations_after_first_step"] == 0
        if not good or rank["planned_bytes"] + 1024 * MIB > rank["budget_bytes"]:
            sys.exit(f"{name}: {rank}, of the plan: {planned}")
    rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    return plan, [row[key] for key in ("loss", "validation_loss") for row in rows if key in row]


def plan_of(settings):
    done = call(plimsoll, "plan", folder / "run.yaml", "--ranks", 2, "--json", "--verify", *sets(settings))
    return done.returncode, json.loads(done.stdout), done.stderr


def only_uneven_fits(zero, even_losses):
    # Sizes that follow from measured links would be smaller where there is less memory.
    settings = [f"parallel.zero={zero}", "comm.bucket=1"]
    if zero == 3:
        settings += ["comm.prefetch=1", "comm.gather=1"]
    code, even, _ = plan_of(settings)
    if code != 0:
        sys.exit(f"plan: exit code {code}")
    poor, rich = even["needed_bytes"] - MIB, even["needed_bytes"] + 2 * MIB
    settings.append(f"memory.budget=[{rich}, {poor}]")
    refused = call(*command("refused", settings))
    if refused.returncode != 71 or "all ranks (rank 1): the run needs" not in refused.stderr:
        sys.exit(f"even shares: exit code {refused.returncode}\n{refused.stderr}")
    code, _, text = plan_of(settings)
    if code != 71 or "rank 1" not in text:
        sys.exit(f"plan with even shares: exit code {code}\n{text}")
    settings.append("parallel.state_shares=auto")
    plan, losses = train(f"auto{zero}", settings)
    shares = plan["state_shares"]
    if shares[0] <= shares[1] or [role["budget_bytes"] for role in plan["roles"]] != [rich, poor]:
        sys.exit(f"shares {shares}: {plan['roles']}")
    if losses != even_losses:
        sys.exit(f"zero {zero}: {losses} with uneven shares, {even_losses} with even ones")
    code, planned, text = plan_of(settings)
    if code != 0 or planned["state_shares"] != shares:
        sys.exit(f"plan says {planned.get('state_shares')}, the run {shares}\n{text}")
    if "state_shares: auto" not in (folder / f"auto{zero}" / "config.yaml").read_text():
        sys.exit("config.yaml has lost its auto")


def go_on(name, settings, want):
    """The second half of the run again, with other shares."""
    there = f"{name}_again"
    shutil.copytree(folder / name, folder / there)
    shutil.rmtree(folder / there / "checkpoints" / f"step_{STEPS:08d}")
    _, losses = train(there, settings)
    if losses != want:
        sys.exit(f"{there}: {losses}, without the break {want}")


def refusals():
    for settings, place in {("parallel.zero=1", "parallel.state_shares=[1, 2, 3]"): "parallel.state_shares: 3 numbers for 2 ranks",
                            ("parallel.state_shares=auto",): "parallel.state_shares: nothing is divided with zero: 0",
                            ("memory.budget=[2 GiB]",): "memory.budget: 1 sizes for 2 ranks of the shard axis"}.items():
        done = call(*command("refused", settings))
        if done.returncode != 78 or place not in done.stderr:
            sys.exit(f"{settings}: exit code {done.returncode}\n{done.stderr}")


def main():
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "text.txt").write_text("the ship is loaded to the line and no deeper\n" * 400)
    run(plimsoll, "data", "prepare", folder / "text.txt", "--out", folder / "text", "--tokenizer", "char")
    (folder / "run.yaml").write_text(CONFIG.format(folder))
    _, losses = train("even", ["parallel.zero=1"])
    for zero in (1, 3):
        only_uneven_fits(zero, losses)
    go_on("even", ["parallel.zero=3", "parallel.state_shares=[1, 6]"], losses)
    go_on("auto3", ["parallel.zero=2"], losses)
    # Every rank measures its own, and where ranks are alike this changes nothing.
    _, measured = train("measured", ["parallel.zero=2", "parallel.state_shares=auto"])
    if measured != losses:
        sys.exit(f"measured budgets: {measured}, {losses} with even shares")
    refusals()
    print(f"{len(losses)} losses of even and uneven shares")


main()
