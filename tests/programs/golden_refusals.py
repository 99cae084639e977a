#!/usr/bin/env python3
"""golden_refusals.py GOLDEN_CHECK FOLDER LLAMA WORK: breaks copies of FOLDER, a GPT-2, and LLAMA, one thing at a time;
golden_check must give the code and name what is wrong."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

program, original, llama, work = sys.argv[1], *map(Path, sys.argv[2:5])
GONE = object()
# (file, path of keys, value, exit code, parts of the message)
CASES = [
    ("golden.json", "B", 7, 65, ["tokens", "golden.safetensors", "[7, 19]"]),
    ("golden.json", "B", 0, 65, ["golden.json: B: 0"]),
    ("golden.json", "B", "3", 65, ["golden.json: B:"]),
    ("golden.json", "T", 18, 65, ["tokens", "golden.safetensors", "[3, 18]"]),
    ("golden.json", "T", GONE, 65, ["golden.json: T: is missing"]),
    ("golden.json", "loss", GONE, 65, ["golden.json: loss: is missing"]),
    ("golden.json", "dtype", "float64", 78, ["golden.json: dtype", "float64"]),
    ("golden.json", "dropout", 0.1, 78, ["golden.json: dropout"]),
    ("golden.json", "curve", GONE, 65, ["golden.json: curve: is missing"]),
    ("golden.json", "curve", [], 65, ["golden.json: curve: must be an object"]),
    ("golden.json", "curve.steps", 30, 65, ["curve.lr_per_step", "24", "30"]),
    ("golden.json", "curve.steps", 12, 65, ["curve.lr_per_step", "24", "12"]),
    ("golden.json", "curve.loss", [1.0], 65, ["curve.loss"]),
    ("golden.json", "curve.grad_clip", GONE, 65, ["curve.grad_clip: is missing"]),
    ("golden.json", "curve.lr_per_step", GONE, 65, ["curve.lr_per_step: is missing"]),
    ("golden.json", "curve.grad_norm_before_clip", "x", 65, ["curve.grad_norm_before_clip"]),
    ("golden.json", "curve.beta2", 1.0, 78, ["curve.beta2"]),
    ("golden.json", "curve.optimizer", "SGD", 78, ["curve.optimizer", "SGD"]),
    ("golden.json", "curve.optimizer", GONE, 65, ["curve.optimizer: is missing"]),
    ("golden.json", "curve.amsgrad", True, 78, ["curve.amsgrad"]),
    ("golden.json", "curve.momentum", 0.9, 78, ["curve.momentum"]),
    ("golden.json", "curve.weight_decay_on", "all parameters", 78, ["curve.weight_decay_on", "all parameters"]),
    ("config.json", "n_positions", 16, 65, ["golden.json: T: 19", "16"]),
    ("config.json", "n_layer", 1, 65, ["grads.safetensors"]),
    ("config.json", "vocab_size", 90, 65, ["tokens"]),
    ("config.json", "activation_function", "relu", 78, ["config.json", "activation_function"]),
    ("config.json", "logit_softcap", 30.0, 78, ["config.json", "logit_softcap: is not known"]),
    # Transformers looks GPT-2's padding up like any other token.
    ("config.json", "pad_token_id", 2, 0, ["within tolerance"]),
    # Not errors: a folder whose configuration has dropout is compared without, as the reference was computed.
    ("config.json", "attn_pdrop", 0.1, 0, ["within tolerance"]),
    ("config.json", "resid_pdrop", GONE, 0, ["within tolerance"]),
    ("golden.json", "loss", 1.0, 1, ["MISSED"]),
    ("golden.json", "seed", 7, 0, ["seed"]),
]


def check(*paths):
    done = subprocess.run([program, *map(str, paths)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    return done.returncode, done.stdout


def expect(got, code, parts, what):
    if got[0] != code or any(part not in got[1] for part in parts):
        sys.exit(f"{what}: exit code {got[0]}, expected {code} and {parts} in:\n{got[1][-2000:]}")


def changed(name, file, path, value, model=original):
    folder = work / name
    shutil.copytree(model, folder)
    content = json.loads((folder / file).read_text())
    *outer, last = path.split(".")
    place = content
    for key in outer:
        place = place[key]
    if value is GONE:
        del place[last]
    else:
        place[last] = value
    (folder / file).write_text(json.dumps(content))
    return folder


shutil.rmtree(work, ignore_errors=True)
work.mkdir(parents=True)
for number, (file, path, value, code, parts) in enumerate(CASES):
    expect(check(changed(str(number), file, path, value)), code, parts, f"{file}: {path} = {value}")

# Every id of the vocabulary of 64 is among the tokens; one outside of it is no row.
for number, (value, code) in enumerate([(0, 78), (63, 78), (-1, 78), (64, 0), (None, 0)]):
    folder = changed(f"padding{number}", "config.json", "pad_token_id", value, llama)
    parts = ["config.json: pad_token_id", "golden.safetensors"] if code else ["within tolerance"]
    expect(check(folder), code, parts, f"pad_token_id = {value}")

# Several folders: what is none is skipped, a bad one does not stop the others, the worst code is the program's.
bad, missed = work / "0", changed("missed", "golden.json", "loss", 1.0)
(work / "README.md").write_text("no folder")
expect(check(bad, work / "README.md", missed, original), 65, ["README.md: skipped", "MISSED", f"{original}: 1"], "several")
expect(check(missed, original), 1, ["MISSED"], "one missed")
expect(check(work / "README.md", original), 0, ["README.md: skipped"], "one skipped")
expect(check(work / "README.md"), 66, ["README.md: skipped"], "nothing to check")
expect(check(work / "absent", original), 66, ["absent", f"{original}: 1"], "one missing")
expect(check("--help"), 0, ["usage"], "--help")
expect(check("--nonsense"), 64, ["usage"], "--nonsense")
expect(check("--precision=bf16", missed), 1, ["MISSED"], "bf16: one missed")
expect(check("--precision=fp32", original), 0, ["(tolerance 2e-05)"], "fp32")
for option in ["--tensor=abc", "--tensor=", "--tensor=0", "--tensor=2x", "--pipeline=-1", "--zero=4", "--zero=7", "--zero", "--precision",
               "--precision=int8"]:
    expect(check(option, original), 64, [option, "usage"], option)
expect(check(), 64, ["usage"], "nothing")
for file in ["grads", "final"]:
    folder = work / file
    shutil.copytree(original, folder)
    shutil.copy(folder / "golden.safetensors", folder / f"{file}.safetensors")
    expect(check(folder), 65, [f"{file}.safetensors"], f"{file}: other tensors")
(folder / "final.safetensors").unlink()
expect(check(folder), 66, ["final.safetensors"], "final: missing")
shutil.rmtree(work)
