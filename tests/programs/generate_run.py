#!/usr/bin/env python3
"""generate_run.py PLIMSOLL CONFIG FOLDER -- LAUNCHER…: trains CONFIG (characters, no biases) for a few steps, generates from the
run and from its export, and checks what `generate` and `export` refuse."""

import json
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path

from smoke_run import WORDS, expect, write_text

plimsoll, config, folder, launcher = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[5:]


def run(*command, code=0, launcher=(), parts=()):
    done = subprocess.run([*launcher, plimsoll, *map(str, command)], capture_output=True, text=True, timeout=120)
    shown = f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout[-1000:]}{done.stderr[-2000:]}"
    expect(done.returncode == code and all(part in done.stderr for part in parts), f"expected {code} and {parts}: {shown}")
    expect(code == 0 or not done.stdout.strip(), f"output before the refusal: {shown}")
    return done.stdout


def header(file):
    with open(file, "rb") as stream:
        return json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))


def train(name, tokens, *overrides):
    overrides = [f"run.dir={folder}/{name}", f"data.train={tokens}", "train.steps=4", "schedule.warmup=1", "model.layers=2",
                 "model.vocabulary=auto", "train.eval_batches=1", "run.log_every=0", *overrides]
    run("train", config, *[a for o in overrides for a in ("--set", o)])
    return folder / name


def limited_files():
    """A limit on the size of files is an error of writing: said, and nothing is left behind."""
    done = subprocess.run([plimsoll, "data", "prepare", folder / "text.txt", "--out", folder / "limited"], capture_output=True, text=True,
                          timeout=120, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))
    expect(done.returncode == 74 and "limited.bin.partial: writing at byte" in done.stderr, f"{done.returncode}: {done.stderr}")
    expect(not list(folder.glob("limited*")), f"left behind: {list(folder.glob('limited*'))}")


def check_export(source, dtype, size):
    exported = folder / f"{source.name}_exported"
    run("export", source, exported)
    described = json.loads((exported / "config.json").read_text())
    expect(described["dtype"] == dtype and "plimsoll" not in described, f"config.json: {described}")
    expect(described["bos_token_id"] is None and described["eos_token_id"] is None, "token ids that the vocabulary lacks")
    tensors = header(exported / "model.safetensors")
    biases = [name for name in tensors if name.endswith(".bias")]
    expect(len(biases) == 2 * 6 + 1, f"biases: {biases}")
    expect(all(t["dtype"] == size for name, t in tensors.items() if name != "__metadata__"), f"not all tensors are {size}")
    greedy = ("--prompt", "god ", "--temperature", "0", "--tokens", "90")
    expect(run("generate", source, *greedy) == run("generate", exported, *greedy), "the export is another function")
    return exported


def padding(source):
    """A folder's own token ids stay in its export; ids of padding are named when it is trained."""
    first, second = folder / "padding", folder / "padding_again"
    run("export", source, first)
    described = json.loads((first / "config.json").read_text())
    described |= {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0}
    (first / "config.json").write_text(json.dumps(described))
    run("export", first, second)
    kept = json.loads((second / "config.json").read_text())
    expect(kept["bos_token_id"] == 1 and kept["eos_token_id"] == [2, 3], f"token ids: {kept}")
    again = folder / "again.yaml"
    again.write_text(f"model: {{from: {first}}}\ndata: {{train: {folder}/tokens, sequence: 64}}\n"
                     f"train: {{steps: 1, global_batch: 2}}\nschedule: {{warmup: 0}}\nrun: {{dir: {folder}/again, log_every: 0}}\n")
    run("train", again, parts=["pad_token_id: 0 is a token like any other here"])


def main():
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_text(folder / "text.txt")
    run("data", "prepare", folder / "text.txt", "--out", folder / "tokens", "--tokenizer", "char")
    trained = train("run", folder / "tokens")

    text = run("generate", trained)  # 100 tokens by default: more than the 64 positions
    expect(len(text) == len("\n") + 100 + len("\n"), f"{len(text)} characters")
    expect(set(text) <= set(" ".join(WORDS)) | {"\n"}, "characters that the text does not have")
    expect(run("generate", trained, launcher=launcher) == text, "several processes print it more than once")
    for option, value, part in [("--tokens", "-3", "from 1"), ("--tokens", "0", "from 1"), ("--temperature", "nan", "finite"),
                                ("--temperature", "-1", "a finite number from 0"), ("--temperature", "inf", "finite"),
                                ("--top-p", "1.5", "from 0 to 1"), ("--top-k", "-1", "from 0")]:
        run("generate", trained, f"{option}={value}", code=64, parts=[part])
    run("generate", trained, "--prompt", "€", code=65)
    for source in [trained, trained / "checkpoints" / "step_00000004"]:
        run("generate", source, "--set", "model.layers=9", code=78, parts=["model.layers", "9", "2"])
        run("generate", source, "--set", "model.layres=9", code=78, parts=["did you mean 'layers'"])
        expect(run("generate", source, "--set", "model.layers=2") == text, "the same model is not the same")

    # One process needs the model and its cache: what does not fit is refused before it is there.
    small = ["generate", trained, "--set", "memory.reserve=1023MiB", "--set"]
    run(*small, "memory.budget=1GiB", code=71, parts=["memory.budget is 1.00 GiB", "the run needs"])
    expect(run(*small, "memory.budget=2GiB") == text, "a budget changes the text")
    run("generate", trained, "--set", "memory.reserve=1000", code=71, parts=["memory.reserve", "is 1000 B", "outside"])
    limited_files()

    # The cache is for what there will be: all positions of this model would take 128 MiB.
    long = folder / "long.yaml"
    long.write_text("model: {family: llama, layers: 1, hidden: 16, heads: 2, vocabulary: auto, positions: 1048576}\n"
                    f"data: {{train: {folder}/tokens, sequence: 64}}\ntrain: {{steps: 1, global_batch: 2}}\nschedule: {{warmup: 0}}\n"
                    f"run: {{dir: {folder}/long, log_every: 0}}\n")
    run("train", long)
    greedy = ["generate", folder / "long", "--temperature", "0", "--tokens"]
    padding(folder / "long")
    short = run(*greedy, "5", "--set", "memory.reserve=1GiB", "--set", "memory.budget=1040MiB")
    expect(run(*greedy, "90").startswith(short[:-1]), "the size of the cache changes the text")

    exported = check_export(trained, "float32", "F32")
    run("export", trained, exported, code=64)
    run("generate", exported, "--set", "model.bias=false", code=78, parts=["model.bias"])
    check_export(train("wide", folder / "tokens", "precision=fp64"), "float64", "F64")


if __name__ == "__main__":
    main()
