#!/usr/bin/env python3
"""A probe under the launcher, and what reads its file: plan --cluster, and runs whose buckets, gathers and shards are
sized by it; and a run that takes the links from its kernel profile.
    probe_run.py PLIMSOLL FOLDER -- LAUNCHER…"""
import json
import shutil
import subprocess
import sys
from pathlib import Path

plimsoll, folder, launcher = sys.argv[1], Path(sys.argv[2]), sys.argv[sys.argv.index("--") + 1:]
shutil.rmtree(folder, ignore_errors=True)
folder.mkdir(parents=True)
cluster = folder / "cluster.yaml"
(folder / "text.txt").write_text("The quality of mercy is not strained. " * 400)


def run(*command, code=0):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120)
    if done.returncode != code:
        sys.exit(f"{command}: exit code {done.returncode}, expected {code}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def train(name, *overrides, links="none"):
    config = folder / "run.yaml"
    config.write_text(
        "model: {family: gpt2, layers: 4, hidden: 64, heads: 4, vocabulary: 257, positions: 64, dropout: 0}\n"
        f"data: {{train: {folder}/data, validation: 0, sequence: 32}}\ntrain: {{steps: 3, global_batch: 8}}\n"
        f"optimizer: {{lr: 1e-3}}\nschedule: {{name: constant}}\n"
        f"run: {{dir: {folder}/{name}, threads: 1, eval_every: 0, save_every: 0}}\n")
    sets = [word for o in overrides for word in ("--set", o)]
    run(*launcher, plimsoll, "train", config, *sets)
    plan = json.loads((folder / name / "plan.json").read_text())
    assert plan["links"] == links, plan["links"]
    return plan, [json.loads(line)["loss"] for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


told = run(*launcher, plimsoll, "probe", "--largest", "256KiB", "--out", cluster)
for operation in ("send_receive", "reduce_scatter", "all_gather", "all_reduce"):
    assert sum("apart:" in line and operation in line for line in told.splitlines()) == 1, told
    assert sum("of the work beside it" in line and operation in line for line in told.splitlines()) <= (operation != "send_receive"), told
text = cluster.read_text()
assert text.count("  - {axis: data, ") == 4 and "262144" in text, text
assert "inside a host" in text or "inside hosts" in text, "what was not measured is said"

said = run(*launcher, plimsoll, "probe", "--largest", "2MiB", "--check", "--out", folder / "checked.yaml")
assert said.count("measured again: median error") == 4 and "all of them: median error" in said, said
assert "needs at least" in run(*launcher, plimsoll, "probe", "--largest", "1MiB", "--check", "--out", folder / "none.yaml", code=64)

run(plimsoll, "data", "prepare", folder / "text.txt", "--out", folder / "data")
plan, losses = train("fixed", "plan.profile=off")
fixed = plan["buckets"]
assert len(fixed["bytes"]) == 1 and "exposed_ms" not in fixed, fixed
plan, sized_losses = train("sized", f"comm.cluster={cluster}", links="cluster")
sized = plan["buckets"]
assert sum(sized["bytes"]) == sum(fixed["bytes"]) and sized["best"]["gain_ms"] == 0, sized
assert sized_losses == losses, "buckets change no bit"
planned = json.loads(run(plimsoll, "plan", folder / "run.yaml", "--ranks", "2", "--cluster", cluster, "--json"))
assert planned["buckets"]["bytes"] == sized["bytes"], "plan says what a run does"

# Without a description: the links that the profile measures; `plan` and a second run take them from its file.
profile = f"plan.profile={folder}/kernels.json"
plan, here_losses = train("here", profile, links="profile")
here, again = plan["buckets"], train("again", profile, links="profile")[0]["buckets"]
assert here["best"]["gain_ms"] == 0 and here_losses == losses and again["bytes"] == here["bytes"], (here, again)
planned = json.loads(run(plimsoll, "plan", folder / "run.yaml", "--ranks", "2", "--set", profile, "--json"))
assert planned["links"] == "profile" and planned["buckets"]["bytes"] == here["bytes"], planned["buckets"]

# A link on which a message costs more than all of them together: one bucket; and a file with a fault names its place.
slow = text[:text.index("\nmeasured:")] + ("\nmeasured:\n  - {axis: data, operation: all_reduce, ranks: 2, stride: 1, "
                                         "bytes: [1024, 2048, 1048576], seconds: [1, 1.001, 1.002]}\n")
(folder / "slow.yaml").write_text(slow)
plan, slow_losses = train("slow", f"comm.cluster={folder}/slow.yaml", links="cluster")
one = plan["buckets"]
assert len(one["bytes"]) == 1 and one["exposed_ms"] > 900 and slow_losses == losses, one
(folder / "wrong.yaml").write_text(slow.replace("seconds: [1, ", "seconds: [0, "))
said = run(plimsoll, "plan", folder / "run.yaml", "--cluster", folder / "wrong.yaml", code=78)
assert f"wrong.yaml:{slow.count(chr(10))}:" in said and "measured[0].seconds" in said, said

# ZeRO over such a link: gathers of several units, and shards of which each rank keeps a whole set.
(folder / "latent.yaml").write_text(text[:text.index("\nmeasured:")] + "\nmeasured:\n" + "".join(
    f"  - {{axis: data, operation: {operation}, ranks: 2, stride: 1, bytes: [1024, 1048576], seconds: [0.5, 0.501]}}\n"
    for operation in ("all_reduce", "all_gather", "reduce_scatter")))
latent = f"comm.cluster={folder}/latent.yaml"
units, unit_losses = train("units", "parallel.zero=3", "comm.gather=0", "plan.profile=off")
joined, joined_losses = train("joined", "parallel.zero=3", latent, links="cluster")
assert units["gathers"]["gathers"] == units["gathers"]["uses"] > joined["gathers"]["gathers"], joined["gathers"]
assert joined["gathers"]["apart"]["gain_ms"] > 900 and joined_losses == unit_losses, joined["gathers"]
# Sums of units too, with every stage of ZeRO, and without a bit that changes.
for zero in (1, 2, 3):
    apart, apart_losses = train(f"apart_{zero}", f"parallel.zero={zero}", "comm.bucket=1", "plan.profile=off")
    summed, summed_losses = train(f"summed_{zero}", f"parallel.zero={zero}", latent, links="cluster")
    assert len(apart["buckets"]["bytes"]) == 6 and len(summed["buckets"]["bytes"]) == 1, (zero, summed["buckets"])
    assert summed["buckets"]["apart"]["gain_ms"] > 900 and summed_losses == apart_losses, (zero, summed["buckets"])
whole, whole_losses = train("whole", "parallel.zero=1", "parallel.shard=auto", latent, links="cluster")
assert whole["mesh"]["shard"] == 1 and whole["shard_choice"]["by_links"] == 1, whole["mesh"]
assert all(abs(a - b) < 1e-5 for a, b in zip(whole_losses, losses)), (whole_losses, losses)
print("probe_run: good")
