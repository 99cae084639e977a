#!/usr/bin/env python3
"""Training speed on one GPU in bf16, beside PyTorch (torch.compile, fused attention: tools/torch_gpu.py of the shared folder), interleaved in
rounds; medians. Prints a table and writes JSON, both after every measurement; called again, it measures what the JSON lacks, what failed last.
Called by bench.sh --gpu.

MFU of both is of the same peak: the rate of the data sheet that our run names. Ends with 1 where a cell of ours failed, or PyTorch for another
reason than the GPU's memory."""
import argparse
import json
import re
import statistics
import subprocess
import tempfile
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path

from bench_runs import DATA, PYTHON, ROOT, SHARED, identity, keeps_going, results_of, save_results, shared_tool, start

MODELS = {
    "gpt2-124m": "{preset: gpt2-124m, vocabulary: 50304, dropout: 0, positions: %d}",
    "gpt2-1558m": "{preset: gpt2-1558m, vocabulary: 50304, dropout: 0, positions: %d}",
    "llama-3.2-1b": "{preset: llama-3.2-1b, positions: %d}",
    "tiny-gpt2": "{family: gpt2, layers: 2, hidden: 64, heads: 4, vocabulary: 512, positions: %d}",  # to try the benchmark itself
}
LIMIT_S = 480  # of a run: where commands are cut off after ten minutes a cell that hangs is said to, and the next has its turn


@dataclass(frozen=True)
class Cell:
    model: str
    batch: int
    sequence: int
    budget: str = "auto"
    epilogues: str = "auto"  # cuda.epilogues


# Tokens per step stay 16,384. The second: whether products without epilogues are faster here. The last: what a budget makes possible, which
# needs 48.8 GiB in llm.c.
CELLS = (Cell("gpt2-124m", 16, 1024), Cell("gpt2-124m", 16, 1024, epilogues="off"), Cell("gpt2-124m", 8, 2048), Cell("gpt2-124m", 4, 4096),
         Cell("gpt2-1558m", 16, 1024), Cell("gpt2-1558m", 8, 2048), Cell("gpt2-1558m", 4, 4096),
         Cell("llama-3.2-1b", 16, 1024), Cell("llama-3.2-1b", 8, 2048), Cell("llama-3.2-1b", 4, 4096),
         Cell("gpt2-1558m", 16, 1024, "32 GiB"))


def program_of(a):
    return ROOT / f"build/{a.preset}/bin/plimsoll"


def ours(a, cell):
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        config = Path(folder) / "bench.yaml"
        config.write_text(
            f"model: {MODELS[cell.model] % cell.sequence}\nprecision: bf16\ndevice: {a.device}\ncuda: {{epilogues: {cell.epilogues}}}\n"
            f"data: {{train: {DATA}, validation: 0, sequence: {cell.sequence}}}\n"
            f"train: {{steps: {a.steps}, global_batch: {cell.batch}, micro_batch: {cell.batch}}}\n"
            f"memory: {{budget: {cell.budget}, recompute: {'none' if cell.budget == 'auto' else 'auto'}}}\n"
            f"optimizer: {{lr: 1e-4, weight_decay: 0.1, clip: 1.0}}\nschedule: {{name: constant}}\n"
            f"run: {{dir: {run}, eval_every: 0, save_every: 0, log_every: 1}}\n")
        start([program_of(a), "train", config], f"{cell}", LIMIT_S)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][a.warm_up:]
        summary = json.loads((run / "summary.json").read_text())
        rank = summary["ranks"][0]
        return dict(tokens_per_s=statistics.median(line["tokens_per_s"] for line in lines), mfu=statistics.median(line["mfu"] for line in lines),
                    peak_gflops=summary["peak_gflops"], planned_bytes=rank["planned_bytes"], outside_bytes=rank["outside_arena_bytes"],
                    peak_bytes=rank["peak_process_bytes"], high_water_bytes=rank["arena_high_water_bytes"],
                    step_ms=summary["measured_step_ms"], predicted_step_ms=summary["predicted_step_ms"])


def find_peer(a):
    """What runs PyTorch, or None; and what the results say of it."""
    if a.no_peer:
        return None, "not asked for"
    script = shared_tool("torch_gpu.py")
    if script is None:
        return None, f"not found: looked for tools/torch_gpu.py in {', '.join(map(str, SHARED))}"
    try:
        version = start([PYTHON, "-c", "import torch; print(torch.__version__)"], "import torch").strip()
    except (OSError, SystemExit) as failure:
        return None, f"PYTHON={PYTHON} does not run {script}: {str(failure).strip().splitlines()[-1]}"
    return script, f"{script}, {PYTHON}, torch {version}"


def has_peer(cell):
    """PyTorch has none of our settings."""
    return cell == Cell(cell.model, cell.batch, cell.sequence)


def peer(a, script, cell, peak_gflops):
    """PyTorch as its users run it; with a cache of its own, since one that a compiler was cut off in fails every later run."""
    with tempfile.TemporaryDirectory() as cache:
        said = start(["env", f"TORCHINDUCTOR_CACHE_DIR={cache}", PYTHON, script, cell.model, "--B", cell.batch, "--T", cell.sequence,
                      "--steps", a.steps, "--device", a.device, "--peak-tflops", peak_gflops / 1000], "PyTorch", LIMIT_S)
    try:
        result = json.loads(said.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise SystemExit(f"PyTorch: no results in its last line:\n{said[-2000:]}") from None
    return dict(tokens_per_s=result["tokens_s"], mfu=result["mfu"], peak_bytes=int((result["peak_gib"] or 0) * 2**30))


def out_of_memory(reason):
    """A result of PyTorch, and no failure of the benchmark."""
    return re.search(r"CUDA\W+(error: )?out of memory|CUBLAS_STATUS_ALLOC_FAILED", reason) is not None


def row_of(cell, runs, peers, peer_failed):
    """Medians, and what they are of."""
    mid = lambda of, key: statistics.median(run[key] for run in of)
    row = dict(**asdict(cell), **{key: mid(runs, key) for key in runs[0]})
    if peers:
        row |= {f"peer_{key}": mid(peers, key) for key in peers[0]}
        row["ratio"] = row["tokens_per_s"] / row["peer_tokens_per_s"]
    if peer_failed:
        row["peer_failed"] = peer_failed
    return row | dict(runs=runs, peers=peers)


def rows_of(runs, peers, peer_failed):
    """By cell, of which there is a run; the one without epilogues also says what part of the tokens/s with them it has, `ratio_to_auto`."""
    rows = {c: row_of(c, runs[c], peers.get(c, []), peer_failed.get(c)) for c in runs if runs[c]}
    for cell, row in rows.items():
        with_them = rows.get(replace(cell, epilogues="auto"))
        if cell.epilogues == "off" and with_them:
            row["ratio_to_auto"] = row["tokens_per_s"] / with_them["tokens_per_s"]
    return rows


HEADER = (f"{'model':13}{'B':>4}{'T':>6}{'budget':>9}{'epilogues':>11}{'tokens/s':>11}{'MFU':>7}{'plan':>11}{'outside':>11}{'step':>10}{'predicted':>11}"
          f"{'PyTorch':>11}{'MFU':>7}{'memory':>11}{'ratio':>7}")


def text_of(row):
    gib = lambda b: f"{b / 2**30:.2f} GiB"
    no_peer = "-" if "peer_failed" not in row else "no memory" if out_of_memory(row["peer_failed"]) else "FAILED"
    beside = f"{no_peer:>11}{'-':>7}{'-':>11}{'-':>7}"
    if "ratio" in row:
        beside = f"{row['peer_tokens_per_s']:>11.0f}{row['peer_mfu']:>7.1%}{gib(row['peer_peak_bytes']):>11}{row['ratio']:>7.2f}"
    return (f"{row['model']:13}{row['batch']:>4}{row['sequence']:>6}{row['budget']:>9}{row['epilogues']:>11}{row['tokens_per_s']:>11.0f}{row['mfu']:>7.1%}"
            f"{gib(row['planned_bytes']):>11}{gib(row['outside_bytes']):>11}{row['step_ms']:>7.1f} ms{row['predicted_step_ms']:>8.1f} ms{beside}")


def print_verdicts(rows):
    """On what is aimed at, of the cells that were measured."""
    verdict = lambda what, reached, figure: print(f"{what}: {'yes' if reached else 'NO'} ({figure})")
    if ratios := [row["ratio"] for row in rows if "ratio" in row]:
        verdict("at least 1.1 times the tokens/s of PyTorch", min(ratios) >= 1.1, f"at least {min(ratios):.2f}, in {len(ratios)} cells")
    if mfus := [row["mfu"] for row in rows if row["model"] == "llama-3.2-1b"]:
        verdict("MFU of at least 50 % at 1B", min(mfus) >= 0.5, f"at least {min(mfus):.1%}, in {len(mfus)} cells")
    for row in rows:
        if "ratio_to_auto" in row:
            print(f"cuda.epilogues: off has {row['ratio_to_auto']:.3f} of the tokens/s of auto")
        if row["budget"] != "auto":
            peak = row["peak_bytes"] / 2**30
            verdict(f"{row['model']} within {row['budget']}", peak <= float(row["budget"].split()[0]), f"{peak:.2f} GiB")


def positive(text):
    if int(text) < 1:
        raise ValueError
    return int(text)


def lengths(text):
    return [positive(length) for length in text.split(",")]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=positive, default=1)
    parser.add_argument("--steps", type=positive, default=20)
    parser.add_argument("--warm-up", type=int, default=5, help="steps at the start that do not count")
    parser.add_argument("--models", default=",".join(m for m in MODELS if not m.startswith("tiny")))
    parser.add_argument("--sequences", type=lengths, default="1024,2048,4096")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--device", default="cuda", help="cpu tries the benchmark itself")
    parser.add_argument("--preset", default="cuda")
    parser.add_argument("--out", default="bench-gpu.json")
    a = parser.parse_args()
    if a.steps <= a.warm_up:
        parser.error(f"--steps {a.steps}: none would count after --warm-up {a.warm_up}")
    known = [*CELLS, *(Cell("tiny-gpt2", 2, s) for s in a.sequences), Cell("tiny-gpt2", 2, 1024, epilogues="off")]
    models = a.models.split(",")
    for model, sequence in product(models, a.sequences):
        if not any((c.model, c.sequence) == (model, sequence) for c in known):
            parser.error(f"no {model} at {sequence} tokens: there are {', '.join(MODELS)} at 1024, 2048, 4096")
    a.cells = [c for c in known if c.model in models and c.sequence in a.sequences]
    return a


def gpu_text(a):
    if a.device != "cuda":
        return "none"
    try:
        return start(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], "nvidia-smi").strip()
    except (OSError, SystemExit) as failure:
        return f"unknown: {failure}"


def main():
    a = arguments()
    script, peer_text = find_peer(a)
    print(f"PyTorch: {peer_text}", flush=True)
    settings = dict(gpu=gpu_text(a), **identity(program_of(a)), steps=a.steps, warm_up=a.warm_up, device=a.device)
    before = results_of(a.out, **settings)
    # Of a PyTorch that is not here now, what it measured stays.
    measured_by = before["peer"] if script is None and any(row["peers"] for row in before.get("rows", [])) else peer_text
    runs, peers, peer_failed, failed = {}, {}, {}, before.get("failed", {})  # the first three by cell
    for row in before.get("rows", []):
        cell = Cell(**{field.name: row[field.name] for field in fields(Cell)})
        runs[cell] = row["runs"]
        if before["peer"] == measured_by:
            peers[cell] = row["peers"]
            peer_failed |= {cell: row["peer_failed"]} if "peer_failed" in row else {}

    def rows():
        return rows_of(runs, peers, peer_failed)

    def save():
        save_results(a.out, **settings, peer=measured_by, rounds=a.rounds, rows=list(rows().values()), failed=failed)

    save()
    print(HEADER, flush=True)
    cells = sorted(a.cells, key=lambda c: str(c) in failed or c in peer_failed)
    for done in range(a.rounds):
        for cell in cells:
            ours_of, peers_of = runs.setdefault(cell, []), peers.setdefault(cell, [])
            if len(ours_of) <= done:
                failed.pop(str(cell), None)
                with keeps_going(failed, str(cell)):
                    ours_of.append(ours(a, cell))
                save()
            if script and ours_of and has_peer(cell) and len(peers_of) <= done and not out_of_memory(peer_failed.get(cell, "")):
                peer_failed.pop(cell, None)
                with keeps_going(peer_failed, cell):
                    peers_of.append(peer(a, script, cell, ours_of[-1]["peak_gflops"]))
                save()
            if cell in rows():
                print(text_of(rows()[cell]), flush=True)
    bad = [str(cell) for cell in cells if str(cell) in failed]
    bad += [f"PyTorch, {cell}" for cell in cells if cell in peer_failed and not out_of_memory(peer_failed[cell])]
    if script is None and not a.no_peer:
        bad.append(f"PyTorch, {peer_text}")
    print_verdicts(rows().values())
    print(f"results in {a.out}")
    if bad:
        raise SystemExit(f"failed: {', '.join(bad)}")


if __name__ == "__main__":
    main()
