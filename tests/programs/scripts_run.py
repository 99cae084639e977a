#!/usr/bin/env python3
"""scripts_run.py SCRIPTS FOLDER: the scripts that need a GPU, or measure for hours, in a copy of the repository where nvidia-smi, ctest
and plimsoll are fakes: how many GPUs are visible, what is skipped, and what is left of a benchmark when a part of it fails."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

SCRIPTS, FOLDER = Path(sys.argv[1]), Path(sys.argv[2])
REPOSITORY, BIN, BUILT = FOLDER / "repository", FOLDER / "bin", FOLDER / "built"
GPUS = ("GPU 0: NVIDIA H200 (UUID: GPU-aaaa-1)\n  MIG 1g.18gb Device 0: (UUID: MIG-cccc-1)\n"
        "GPU 1: NVIDIA H200 (UUID: GPU-bbbb-2)")

CTEST = r"""
if [ "$PLIMSOLL_GPU_REQUIRED" != 1 ]; then echo "a GPU that is gone would be a skip"; exit 1; fi
while [ $# -gt 0 ]; do case $1 in --output-junit) out=$2 ;; esac; shift; done
cat >"$out" <<'XML'
<testsuite>
<testcase name="a" status="run"><system-out>skipped: it only says so</system-out></testcase>
<testcase name="b" status="notrun"><skipped message="x"/><system-out>[ RUN ]
b.cpp:1: Skipped
one GPU
[  SKIPPED ]</system-out></testcase>
<testcase name="c" status="notrun"><skipped message="x"/><system-out>warning
skipped: refused
</system-out></testcase>
<testcase name="d" status="notrun"><skipped message="x"/><system-out>FATAL no fp8</system-out></testcase>
</testsuite>
XML
"""

# Runs of which FAILING, a regular expression, finds something in the configuration fail.
PLIMSOLL = r"""#!/usr/bin/env python3
import json, os, re, sys
from pathlib import Path

if sys.argv[1] == "info":
    sys.exit(print("cuda  built for CUDA 13.0\nNCCL  2.28"))
if sys.argv[1] == "plan":
    sys.exit(print(json.dumps(dict(persistent_bytes=100 << 20, planned_bytes=300 << 20))))
text = Path(sys.argv[2]).read_text()
if re.search(os.environ.get("FAILING", "(?!)"), text):
    sys.exit("the device is gone")
run = Path(re.search(r"dir: ([^,]+),", text).group(1))
run.mkdir()
budget = re.search(r"budget: (\d+)", text)
planned = min(300 << 20, int(budget.group(1)) - (384 << 20)) if budget else 300 << 20
times = dict(forward=40, backward=60, recompute=0, update=10)
rank = dict(planned_bytes=planned, arena_high_water_bytes=planned, peak_process_bytes=planned + (128 << 20), outside_arena_bytes=128 << 20,
            allocations_after_first_step=0, measured_ms=times)
(run / "metrics.jsonl").write_text("".join(
    json.dumps(dict(loss=1, step_ms=110, tokens_per_s=5, mfu=0.5)) + "\n" for _ in range(8)))
(run / "summary.json").write_text(json.dumps(dict(ranks=[rank], peak_gflops=1000, measured_step_ms=110, predicted_step_ms=100)))
(run / "plan.json").write_text(json.dumps(dict(outside_arena_bytes=384 << 20)))
"""

PEER = """
import json, sys
print("no results" if "64" in sys.argv else json.dumps(dict(tokens_s=4, mfu=0.4, peak_gib=1)))
"""


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if text.startswith("#!") else f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def make_repository():
    shutil.rmtree(FOLDER, ignore_errors=True)
    shutil.copytree(SCRIPTS, REPOSITORY / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    program(REPOSITORY / "scripts/setup.sh", "")
    program(REPOSITORY / "scripts/build.sh", f'echo "$@" >>{BUILT}')
    for preset in ("release", "cuda"):
        program(REPOSITORY / f"build/{preset}/bin/plimsoll", PLIMSOLL)
    (REPOSITORY / "data").mkdir()
    for name in ("kjv.txt", "kjv.idx"):
        (REPOSITORY / "data" / name).write_text("text")
    program(BIN / "nvidia-smi", f"cat <<'END'\n{GPUS}\nEND")
    program(BIN / "ctest", CTEST)


def call(*command, **environment):
    """Exit code and output, in the repository; CUDA_VISIBLE_DEVICES and PLIMSOLL_SHARED only as they are given."""
    known = {key: value for key, value in os.environ.items()
             if key not in ("CUDA_VISIBLE_DEVICES", "PLIMSOLL_SHARED", "PLIMSOLL_CARRIED", "PLIMSOLL_GPU_REQUIRED", "CI")}
    known["PATH"] = f"{BIN}:{known['PATH']}"
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, cwd=REPOSITORY,
                          env=known | environment)
    return done.returncode, done.stdout


def expect(condition, *what):
    if not condition:
        sys.exit(f"scripts_run: {what}")


def check_visible_gpus():
    for visible, count in {None: 2, "": 0, "0": 1, "0,1": 2, "1, 0": 2, "-1": 0, "0,-1,1": 1, "2": 0, "0,2": 1, "NoDevFiles": 0,
                           "GPU-bbbb": 1, "GPU-aaaa-1,GPU-bbbb-2": 2, "GPU-dddd": 0, "MIG-cccc-1": 1, "0,,1": 1}.items():
        environment = {} if visible is None else dict(CUDA_VISIBLE_DEVICES=visible)
        got = call("bash", "-c", "set -euo pipefail; source scripts/common.sh; visible_gpus", **environment)
        expect(got == (0, f"{count}\n"), visible, got, count)
    for script in (["smoke.sh", "--gpu"], ["gpu_check.sh"], ["bench.sh", "--rounds", "1", "--gpu"]):
        code, said = call(REPOSITORY / "scripts" / script[0], *script[1:], CUDA_VISIBLE_DEVICES="-1")
        expect(code == 69 and "CUDA_VISIBLE_DEVICES is '-1'" in said and not BUILT.exists(), script, code, said)


def check_skipped():
    code, said = call("scripts/gpu_check.sh", "--no-bench")
    expect(code == 0 and "== skipped\nb: one GPU\nc: refused\nd: FATAL no fp8\n" in said, code, said)
    expect("passed, but for 3 tests that were skipped" in said, said)


def check_carried():
    carried = FOLDER / "carried"
    (carried / "usr/include").mkdir(parents=True)
    for name in ("CMAKE_PREFIX_PATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "LD_LIBRARY_PATH"):
        show = ("bash", "-c", f"source scripts/common.sh; echo ${name}")
        mine, alone = (call(*show, PLIMSOLL_CARRIED=str(carried), **{name: value}) for value in ("/mine:/too", ""))
        expect(mine[1] == f"{alone[1].strip()}:/mine:/too\n" and alone[1].startswith(f"{carried}/usr"), name, mine, alone)


def check_options():
    program(FOLDER / "shown/python3", 'echo "$@"')
    for options, expected in (("--rounds 1 --gpu", "scripts/bench_gpu.py --rounds 1"), ("--gpu --rounds 1 --budget", "scripts/bench_budget.py --rounds 1 --gpu"),
                              ("--rounds 1 --budget", "scripts/bench_budget.py --rounds 1"), ("--out x --plans", "scripts/bench_plans.py --out x"),
                              ("--mesh", "scripts/bench.py --mesh"), ("--plans --gpu", None), ("--plans --budget", None)):
        code, said = call("scripts/bench.sh", *options.split(), PATH=f"{FOLDER}/shown:{BIN}:{os.environ['PATH']}")
        expect((code, said) == (0, f"{expected}\n") if expected else code == 1, options, code, said)


def check_budget():
    """The second budget, 100 of 200 MiB, fails: the others and the reason are in the results."""
    budget = (100 << 20) + (100 << 20) + (384 << 20)
    code, said = call("python3", "scripts/bench_budget.py", "--rounds", "1", "--percent", "100,50,25", "--out", FOLDER / "budget.json",
                      FAILING=f"budget: {budget}")
    rows = json.loads((FOLDER / "budget.json").read_text())["rows"]
    expect(code == 1 and said.endswith("failed: 50 %\n") and "NO" in said, code, said)
    expect([row["percent"] for row in rows] == [100, 50, 25] and ["failed" in row for row in rows] == [False, True, False], rows)
    expect("the device is gone" in rows[1]["failed"] and rows[2]["step_ms"] == 110, rows)
    expect(not (FOLDER / "budget.json.partial").exists(), "what was partial is left")


def check_gpu_bench():
    bench = ["python3", "scripts/bench_gpu.py", "--device", "cpu", "--preset", "release", "--models", "tiny-gpt2", "--steps", "8"]
    code, said = call(*bench, "--sequences", "32", "--out", FOLDER / "alone.json")
    alone = json.loads((FOLDER / "alone.json").read_text())
    expect(code == 0 and said.count("not found: looked for tools/torch_gpu.py in ") == 1 and alone["peer"] in said, code, said)
    expect(alone["info"] == ["cuda  built for CUDA 13.0", "NCCL  2.28"], alone)
    expect("ratio" not in alone["rows"][0], alone)

    # Without epilogues, where they are to be compared; that it fails costs nothing else.
    for failing, ratios in (("(?!)", [None, 1]), ("epilogues: off", [None])):
        code, said = call(*bench, "--sequences", "1024", "--out", FOLDER / "gpu.json", FAILING=failing)
        found = json.loads((FOLDER / "gpu.json").read_text())
        expect([row.get("ratio_to_auto") for row in found["rows"]] == ratios and ("off has 1.000 of" in said) == (code == 0), code, said, found)
        expect(code == len(found["failed"]) == 2 - len(ratios), code, said, found)

    for shared, environment in ((REPOSITORY / "shared", {}), (REPOSITORY.parent / "shared", {}), (FOLDER / "named", dict(PLIMSOLL_SHARED=str(FOLDER / "named")))):
        (shared / "tools").mkdir(parents=True)
        (shared / "tools/torch_gpu.py").write_text(PEER)
        code, said = call(*bench, "--sequences", "64,32,16,8", "--out", FOLDER / "gpu.json", FAILING="sequence: 16", PYTHON=sys.executable, **environment)
        found = json.loads((FOLDER / "gpu.json").read_text())
        expect(code == 1 and found["peer"] == str(shared / "tools/torch_gpu.py"), code, said, found)
        expect([(row["sequence"], "ratio" in row) for row in found["rows"]] == [(64, False), (32, True), (8, True)], found)
        reasons = [found["failed"][cell] for cell in sorted(found["failed"])]
        expect(len(reasons) == 2 and "the device is gone" in reasons[0] and "no results in its last line" in reasons[1], found)

    sys.path.insert(0, str(REPOSITORY / "scripts"))
    import bench_runs
    failed = {}
    with bench_runs.keeps_going(failed, "a cell"):
        bench_runs.start(["sleep", "20"], "it", timeout=0.1)
    expect(re.fullmatch(r"it: not done after 0\.1 s", failed["a cell"]), failed)


make_repository()
check_visible_gpus()
check_skipped()
check_carried()
check_options()
check_budget()
check_gpu_bench()
