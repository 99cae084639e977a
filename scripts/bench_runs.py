"""What the benchmarks that start training runs share."""
import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build/release/bin/plimsoll"
DATA = ROOT / "data/kjv"
SHARED = Path(os.environ.get("PLIMSOLL_SHARED", ROOT.parent / "shared"))
PYTHON = os.environ.get("PYTHON", "python3")


def start(command, what, timeout=900):
    """Its standard output; ends the benchmark where it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout)
    if done.returncode != 0:
        raise SystemExit(f"{what} failed ({done.returncode}):\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
    return done.stdout


def steps_ms(run, skip):
    """Of the steps of a run directory without the first `skip`."""
    return [json.loads(line)["step_ms"] for line in (run / "metrics.jsonl").read_text().splitlines()][skip:]


def only_those(table, only, parser):
    """Those of a table whose name contains what --only says; a usage error where there are none."""
    found = {name: item for name, item in table.items() if only in name}
    if not found:
        parser.error(f"--only {only}: there are {'; '.join(table)}")
    return found


def write_results(path, **results):
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    Path(path).write_text(json.dumps(dict(commit=commit, load=os.getloadavg(), **results), indent=1) + "\n")
    print(f"load {os.getloadavg()}, results in {path}")
