"""What the benchmarks that start training runs share."""
import hashlib
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build/release/bin/plimsoll"
DATA = ROOT / "data/kjv"
SHARED = [Path(folder) for folder in (os.environ.get("PLIMSOLL_SHARED"), ROOT.parent / "shared", ROOT / "shared") if folder]
PYTHON = os.environ.get("PYTHON", "python3")
TERMINATED = 128 + signal.SIGTERM
# A benchmark that is cut off removes the folders of its runs on its way out.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))


def shared_tool(name):
    """Of the shared folder's tools; None where it is in none of SHARED."""
    return next((folder / "tools" / name for folder in SHARED if (folder / "tools" / name).exists()), None)


def start(command, what, timeout=900):
    """Its standard output; ends the benchmark, or what keeps_going() covers of it, where it fails."""
    try:
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"{what}: not done after {timeout} s") from None
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


@contextmanager
def keeps_going(failed, what):
    """A failure inside is said and put into `failed`, by what it was of: the other rows are worth their time."""
    try:
        yield
    except (Exception, SystemExit) as failure:
        if isinstance(failure, SystemExit) and failure.code == TERMINATED:
            raise
        failed[what] = str(failure) if isinstance(failure, SystemExit) else repr(failure)
        print(f"{what}: FAILED: {failed[what]}", flush=True)


def identity(program):
    """Of what is measured: what the program says of its build, its libraries and the machine, and its and the CUDA module's bytes."""
    files = [file for file in (program, program.parent / "libplimsoll_cuda.so") if file.exists()]
    return dict(info=[line for line in start([program, "info"], "plimsoll info").splitlines() if not line.startswith("memory_free_bytes")],
                build=hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16])


def results_of(path, **settings):
    """What `path` has from a call that was cut off, or failed in a part, of the same settings; {} where it has none. Others are moved away."""
    path = Path(path)
    if not path.exists():
        return {}
    results = json.loads(path.read_text())
    if all(results.get(key) == value for key, value in settings.items()):
        print(f"going on with {path}; without that file all is measured anew")
        return results
    path.replace(f"{path}.old")
    print(f"{path} is of another build or other settings: now {path}.old")
    return {}


def save_results(path, **results):
    """After every measurement, so that it stays when the time is up; the file is whole at any moment."""
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    part = Path(f"{path}.part")
    part.write_text(json.dumps(dict(commit=commit, load=os.getloadavg(), **results), indent=1) + "\n")
    part.replace(path)


def write_results(path, **results):
    save_results(path, **results)
    print(f"load {os.getloadavg()}, results in {path}")
