#!/usr/bin/env python3
"""Training speed on one GPU in bf16, beside PyTorch (torch.compile, fused attention: tools/torch_gpu.py of the shared folder), interleaved in
rounds; medians. Prints a table and writes JSON. Called by bench.sh --gpu.

MFU of both is of the same peak: the rate of the data sheet that our run names."""
import argparse
import json
import os
import statistics
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from bench_runs import DATA, PYTHON, ROOT, SHARED, keeps_going, shared_tool, start, write_partial, write_results

MODELS = {
    "gpt2-124m": "{preset: gpt2-124m, vocabulary: 50304, dropout: 0, positions: %d}",
    "gpt2-1558m": "{preset: gpt2-1558m, vocabulary: 50304, dropout: 0, positions: %d}",
    "llama-3.2-1b": "{preset: llama-3.2-1b, positions: %d}",
    "tiny-gpt2": "{family: gpt2, layers: 2, hidden: 64, heads: 4, vocabulary: 512, positions: %d}",  # to try the benchmark itself
}


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
        start([program_of(a), "train", config], f"{cell}")
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
    return script, str(script or f"not found: looked for tools/torch_gpu.py in {', '.join(map(str, SHARED))}")


def peer(a, script, cell, peak_gflops):
    """PyTorch as its users run it; None where it is not there, beside rows that it has no setting for, and where it runs out of memory, which is
    said."""
    if script is None or cell.budget != "auto" or cell.epilogues != "auto":
        return None
    command = [PYTHON, str(script), cell.model, "--B", str(cell.batch), "--T", str(cell.sequence), "--steps", str(a.steps), "--device", a.device,
               "--peak-tflops", str(peak_gflops / 1000)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired:
        print(f"PyTorch, {cell}: not done after 15 minutes")
        return None
    if done.returncode != 0:
        print(f"PyTorch, {cell}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}")
        return None
    try:
        result = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise SystemExit(f"PyTorch, {cell}: no results in its last line:\n{done.stdout[-2000:]}{done.stderr[-3000:]}") from None
    return dict(tokens_per_s=result["tokens_s"], mfu=result["mfu"], peak_bytes=int((result["peak_gib"] or 0) * 2**30))


def row_of(cell, runs, peers):
    mid = lambda of, key: statistics.median(run[key] for run in of)
    row = dict(model=cell.model, batch=cell.batch, sequence=cell.sequence, budget=cell.budget, epilogues=cell.epilogues,
               **{key: mid(runs, key) for key in runs[0]})
    if peers:
        row |= {f"peer_{key}": mid(peers, key) for key in peers[0]}
        row["ratio"] = row["tokens_per_s"] / row["peer_tokens_per_s"]
    return row


def rows_of(cells, runs, peers):
    """Those of which there is a run; the one without epilogues also says what part of the tokens/s with them it has, `ratio_to_auto`."""
    rows = {c: row_of(c, runs[c], peers[c]) for c in cells if runs[c]}
    for cell, row in rows.items():
        with_them = rows.get(replace(cell, epilogues="auto"))
        if cell.epilogues == "off" and with_them:
            row["ratio_to_auto"] = row["tokens_per_s"] / with_them["tokens_per_s"]
    return list(rows.values())


HEADER = (f"{'model':13}{'B':>4}{'T':>6}{'budget':>9}{'epilogues':>11}{'tokens/s':>11}{'MFU':>7}{'plan':>11}{'outside':>11}{'step':>10}{'predicted':>11}"
          f"{'PyTorch':>11}{'MFU':>7}{'memory':>11}{'ratio':>7}")


def text_of(row):
    gib = lambda b: f"{b / 2**30:.2f} GiB"
    beside = f"{'-':>11}{'-':>7}{'-':>11}{'-':>7}"
    if "ratio" in row:
        beside = f"{row['peer_tokens_per_s']:>11.0f}{row['peer_mfu']:>7.1%}{gib(row['peer_peak_bytes']):>11}{row['ratio']:>7.2f}"
    return (f"{row['model']:13}{row['batch']:>4}{row['sequence']:>6}{row['budget']:>9}{row['epilogues']:>11}{row['tokens_per_s']:>11.0f}{row['mfu']:>7.1%}"
            f"{gib(row['planned_bytes']):>11}{gib(row['outside_bytes']):>11}{row['step_ms']:>7.1f} ms{row['predicted_step_ms']:>8.1f} ms{beside}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=5, help="steps at the start that do not count")
    parser.add_argument("--models", default=",".join(m for m in MODELS if not m.startswith("tiny")))
    parser.add_argument("--sequences", default="1024,2048,4096")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--device", default="cuda", help="cpu tries the benchmark itself")
    parser.add_argument("--preset", default="cuda")
    parser.add_argument("--out", default="bench-gpu.json")
    a = parser.parse_args()
    sequences = [int(s) for s in a.sequences.split(",")]
    known = [*CELLS, *(Cell("tiny-gpt2", 2, s) for s in sequences), Cell("tiny-gpt2", 2, 1024, epilogues="off")]
    cells = [c for c in known if c.model in a.models.split(",") and c.sequence in sequences]
    if not cells:
        parser.error(f"--models {a.models} --sequences {a.sequences}: there are {', '.join(MODELS)} with 1024, 2048, 4096")
    script, peer_text = find_peer(a)
    print(f"PyTorch: {peer_text}", flush=True)
    info = start([program_of(a), "info"], "plimsoll info").splitlines()
    runs, peers, failed = {c: [] for c in cells}, {c: [] for c in cells}, {}
    rows = []
    for _ in range(a.rounds):
        for cell in cells:
            with keeps_going(failed, str(cell)):
                runs[cell].append(ours(a, cell))
                if other := peer(a, script, cell, runs[cell][-1]["peak_gflops"]):
                    peers[cell].append(other)
            rows = rows_of(cells, runs, peers)
            write_partial(a.out, rows)
    print(HEADER)
    for row in rows:
        print(text_of(row))
        if "ratio_to_auto" in row:
            print(f"cuda.epilogues: off has {row['ratio_to_auto']:.3f} of the tokens/s of auto")
    gpu = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True).stdout.strip() \
        if a.device == "cuda" else "none"
    write_results(a.out, gpu=gpu, info=info, peer=peer_text, rounds=a.rounds, rows=rows, failed=failed)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
