#!/usr/bin/env python3
"""scripts_run.py SCRIPTS FOLDER: the scripts that need a GPU, or measure for hours, in a copy of the repository where nvidia-smi, ctest
and plimsoll are fakes: how many GPUs are visible, what is skipped, and what is left of a benchmark when a part of it fails."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

SCRIPTS, FOLDER = Path(sys.argv[1]), Path(sys.argv[2])
REPOSITORY, BIN, BUILT = FOLDER / "repository", FOLDER / "bin", FOLDER / "built"
GPUS = ("GPU 0: NVIDIA H200 (UUID: GPU-aaaa-1)\n  MIG 1g.18gb Device 0: (UUID: MIG-cccc-1)\n"
        "GPU 1: NVIDIA H200 (UUID: GPU-bbbb-2)")

# Five tests, run one by one; DIES names one at which it ends before it writes anything. RAN has a line for each that was started.
CTEST = r"""
while [ $# -gt 0 ]; do case $1 in -N) list=1 ;; -R) name=$(tr -d '^$\\' <<<"$2") ;; --output-junit) out=$2 ;; esac; shift; done
if [ "${list:-}" ]; then
  printf '  Test %4s: %s\n' '#1' s.a '#2' s.b '#3' s.c '#4' s.d '#1000' sanitizer.e ${UNBUILT:+'#1001' kernels_gpu_tests_NOT_BUILT}
  exit
fi
if [ "$PLIMSOLL_GPU_REQUIRED" != 1 ]; then echo "a GPU that is gone would be a skip"; exit 1; fi
echo "$name" >>"$RAN"
if [ "$name" = "${DIES:-}" ]; then echo "ctest: terminated"; exit 1; fi
case $name in
  s.a | sanitizer.e) said='<system-out>skipped: it only says so</system-out>' ;;
  s.b) said='<skipped message="x"/><system-out>[ RUN ]
b.cpp:1: Skipped
one GPU
[  SKIPPED ]</system-out>' ;;
  s.c) said='<skipped message="x"/><system-out>warning
skipped: refused
</system-out>' ;;
  s.d) said='<skipped message="x"/><system-out>FATAL no fp8</system-out>' ;;
esac
printf '<testsuite><testcase name="%s">%s</testcase></testsuite>' "$name" "$said" >"$out"
"""

# Runs of which FAILING, a regular expression, finds something in the configuration fail. RAN has a line for each that was started.
PLIMSOLL = r"""#!/usr/bin/env python3
import json, os, re, sys
from pathlib import Path

if sys.argv[1] == "info":
    libraries = json.dumps([f"cuDNN {os.environ.get('CUDNN', '9.15.1')}", f"NCCL {os.environ.get('NCCL', '2.28')}"])
    cuda = os.environ.get("CUDA", "built for CUDA 13.0")
    sys.exit(print(f"commit  {os.environ.get('COMMIT', '1')}\ncuda  {cuda}\nmemory_free_bytes  {os.getpid()}\ncuda_libraries  {libraries}"))
if sys.argv[1] == "plan":
    sys.exit(print(json.dumps(dict(persistent_bytes=100 << 20, planned_bytes=300 << 20))))
if sys.argv[1] == "generate":
    sys.exit()
text = Path(sys.argv[2]).read_text()
if "RAN" in os.environ:
    with open(os.environ["RAN"], "a") as ran:
        print("ours", re.search(r"sequence: (\d+)", text).group(1), file=ran)
if re.search(os.environ.get("FAILING", "(?!)"), text):
    sys.exit("the device is gone")
run = Path(re.search(r"dir: ([^,]+),", text).group(1))
run.mkdir()
budget = re.search(r"budget: (\d+),", text)
planned = min(300 << 20, int(budget.group(1)) - (384 << 20)) if budget else 300 << 20
times = dict(forward=40, backward=60, recompute=0, update=10)
rank = dict(planned_bytes=planned, arena_high_water_bytes=planned, peak_process_bytes=planned + (128 << 20), outside_arena_bytes=128 << 20,
            allocations_after_first_step=0, measured_ms=times)
(run / "metrics.jsonl").write_text("".join(
    json.dumps(dict(loss=1, step_ms=110, tokens_per_s=5, mfu=0.5)) + "\n" for _ in range(8)))
(run / "summary.json").write_text(json.dumps(dict(ranks=[rank], peak_gflops=1000, measured_step_ms=110, predicted_step_ms=100)))
(run / "plan.json").write_text(json.dumps(dict(outside_arena_bytes=384 << 20)))
"""

# At the sequence of PEER_CUT the time is up; at that of PEER_FULL the GPU is.
PEER = """
import json, os, sys
sequence = sys.argv[sys.argv.index("--T") + 1]
if "RAN" in os.environ:
    with open(os.environ["RAN"], "a") as ran:
        print("peer", sequence, file=ran)
if os.listdir(os.environ["TORCHINDUCTOR_CACHE_DIR"]):
    sys.exit("what an earlier run has left is used")
open(os.environ["TORCHINDUCTOR_CACHE_DIR"] + "/half", "w")
if sequence == os.environ.get("PEER_CUT"):
    os.kill(os.getppid(), 9)  # env is replaced by this: the parent is the benchmark
if sequence == os.environ.get("PEER_FULL"):
    sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\\nSet TORCHDYNAMO_VERBOSE=1")
print("no results" if sequence == "64" else json.dumps(dict(tokens_s=4, mfu=0.4, peak_gib=1)))
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
    (REPOSITORY / "runtime/ops").mkdir(parents=True)
    (REPOSITORY / "runtime/ops/attention_device.hpp").write_text("inline constexpr std::int64_t kOldestCudnn = 91501;\n")
    for name, text in (("there", "__version__ = '2.0'"), ("gone", "raise ImportError('No module named torch')")):
        (FOLDER / f"torch_{name}").mkdir()
        (FOLDER / f"torch_{name}/torch.py").write_text(text)
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


def lines_of(path):
    """And none from then on."""
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def check_gpu_tests():
    """Part by part, and again after a ctest that ended early: what passed is not run again, what was skipped is listed again."""
    ran = dict(RAN=str(FOLDER / "ran"))
    code, said = call("scripts/gpu_check.sh", "tests", DIES="s.c", **ran)
    expect(code == 1 and "ctest: terminated" in said and "== skipped\ns.b: one GPU\ns.d: FATAL no fp8\nfailed: s.c\n" in said, code, said)
    expect(lines_of(FOLDER / "ran") == ["s.a", "s.b", "s.c", "s.d"], said)
    code, said = call("scripts/gpu_check.sh", "tests", **ran)
    expect(code == 0 and "== skipped\ns.b: one GPU\ns.c: refused\ns.d: FATAL no fp8\n" in said, code, said)
    expect("passed, but for 3 tests that were skipped" in said and lines_of(FOLDER / "ran") == ["s.b", "s.c", "s.d"], said)
    code, said = call("scripts/gpu_check.sh", "sanitizer", **ran)
    expect(code == 0 and said.endswith("== passed\n") and lines_of(FOLDER / "ran") == ["sanitizer.e"], code, said)
    os.utime(REPOSITORY / "build/cuda/bin/plimsoll")
    expect(call("scripts/gpu_check.sh", "tests", **ran)[0] == 0 and lines_of(FOLDER / "ran") == ["s.a", "s.b", "s.c", "s.d"], "another build")

    code, said = call("scripts/gpu_check.sh", "tests", UNBUILT="1", **ran)
    expect(code == 1 and "not built: kernels_gpu_tests" in said and not lines_of(FOLDER / "ran"), code, said)
    for cudnn in ("none", "9.15.0"):
        code, said = call("scripts/gpu_check.sh", "tests", CUDNN=cudnn, **ran)
        expect(code == 1 and "runs use 91501 or later" in said and "NCCL 2.28" in said and not lines_of(FOLDER / "ran"), cudnn, code, said)
    expect(call("scripts/gpu_check.sh", "--any-cudnn", "tests", CUDNN="none", **ran)[0] == 0 and lines_of(FOLDER / "ran"), "--any-cudnn")
    alone = "not to be used here: libnccl.so.2 cannot be loaded"
    expect(call("scripts/gpu_check.sh", "tests", NCCL=alone, **ran)[0] == 0 and lines_of(FOLDER / "ran"), "one GPU needs no NCCL")
    expect(call("scripts/gpu_check.sh", "tests", CUDA="built, but not to be used here: no driver", **ran)[0] == 1 and not lines_of(FOLDER / "ran"), "no driver")


def check_gpu_check():
    """The parts together: without PyTorch it has not passed; called again it measures nothing of ours."""
    lines_of(FOLDER / "ran")
    for tests, times in ((["s.b", "s.c", "s.d"], 1), (["s.b", "s.c", "s.d"], 0)):
        code, said = call("scripts/gpu_check.sh", "--bench", "--models tiny-gpt2 --sequences 32 --steps 8", "tests", "bench", RAN=str(FOLDER / "ran"))
        expect(code == 1 and said.endswith("failed: bench.sh --gpu\n") and "PyTorch, not found" in said, code, said)
        ran = lines_of(FOLDER / "ran")
        expect(ran[:3] == tests and ran.count("ours 32") == times and (ran.count("ours 1024") > 0) == (times > 0), ran)
    expect((REPOSITORY / "build/bench-gpu-budget.json").exists(), said)


def check_build():
    built = REPOSITORY / "scripts/build.sh"
    shutil.copy(SCRIPTS / "build.sh", built)
    program(FOLDER / "cmakes/cmake", f'echo "$*" >>{FOLDER}/cmake')
    try:
        path = dict(PATH=f"{FOLDER}/cmakes:{os.environ['PATH']}", JOBS="1")
        expect(call("scripts/build.sh", "cuda", "-DCUDNN_LIBRARY=x", "one", "two", **path)[0] == 0, "build.sh")
        configured, made = lines_of(FOLDER / "cmake")
        expect(configured.endswith(" -DCUDNN_LIBRARY=x") and made == "--build build/cuda -j 1 --target one two", configured, made)
        expect(call("scripts/build.sh", "cuda", **path)[0] == 0 and lines_of(FOLDER / "cmake")[1] == "--build build/cuda -j 1", "all targets")
        expect(call("scripts/build.sh", "cuda", "one", NO_BUILD="1", **path)[0] == 0 and not lines_of(FOLDER / "cmake"), "NO_BUILD")
        expect(call("scripts/build.sh", "dev", NO_BUILD="1", **path)[0] == 1, "NO_BUILD of what is not there")
    finally:
        program(built, f'echo "$@" >>{BUILT}')


def check_smoke():
    """Nine GPUs: a rank on each, and a batch that divides among them."""
    many = FOLDER / "many"
    program(many / "nvidia-smi", "for n in {0..8}; do echo \"GPU $n: NVIDIA H200 (UUID: GPU-$n)\"; done")
    program(many / "mpirun", f'echo "$*" >>{FOLDER}/mpirun; for word; do case $word in run.dir=*) mkdir "${{word#run.dir=}}/checkpoints" ;; esac; done')
    path = f"{many}:{BIN}:{os.environ['PATH']}"
    (REPOSITORY / "data/kjv.bin").write_text("tokens")
    code, said = call("scripts/smoke.sh", "--gpu", PATH=path)
    started = "".join(lines_of(FOLDER / "mpirun"))
    expect(code == 0 and "-n 9 " in started and "train.global_batch=72" in started, code, said)
    code, said = call("scripts/smoke.sh", "--gpu", "--ranks", "2", PATH=path)
    started = "".join(lines_of(FOLDER / "mpirun"))
    expect(code == 0 and "-n 2 " in started and "global_batch" not in started, code, said)


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

    # Called again: only what failed.
    code, said = call("python3", "scripts/bench_budget.py", "--rounds", "1", "--percent", "100,50,25", "--out", FOLDER / "budget.json", RAN=str(FOLDER / "ran"))
    rows = json.loads((FOLDER / "budget.json").read_text())["rows"]
    expect(code == 0 and lines_of(FOLDER / "ran") == ["ours 256"] * 2, code, said)  # unbudgeted and budgeted
    expect([row["percent"] for row in rows] == [100, 50, 25] and not any("failed" in row for row in rows), rows)


BENCH = ["python3", "scripts/bench_gpu.py", "--device", "cpu", "--preset", "release", "--models", "tiny-gpt2", "--steps", "8"]


def check_peer():
    """Where PyTorch is looked for; where it is not there, cannot be imported or fails, the benchmark ends with 1 and its results say why."""
    code, said = call(*BENCH, "--sequences", "32", "--out", FOLDER / "alone.json")
    alone = json.loads((FOLDER / "alone.json").read_text())
    expect(code == 1 and said.count("not found: looked for tools/torch_gpu.py in ") == 2 and alone["peer"] in said, code, said)
    expect(alone["info"] == ["commit  1", "cuda  built for CUDA 13.0", 'cuda_libraries  ["cuDNN 9.15.1", "NCCL 2.28"]'], alone)
    expect("ratio" not in alone["rows"][0] and alone["failed"] == {}, alone)
    expect(call(*BENCH, "--sequences", "32", "--no-peer", "--out", FOLDER / "alone.json")[0] == 0, "--no-peer")

    there = dict(PYTHON=sys.executable, PYTHONPATH=str(FOLDER / "torch_there"))
    for shared, environment in ((REPOSITORY / "shared", {}), (REPOSITORY.parent / "shared", {}), (FOLDER / "named", dict(PLIMSOLL_SHARED=str(FOLDER / "named")))):
        (shared / "tools").mkdir(parents=True)
        (shared / "tools/torch_gpu.py").write_text(PEER)
        out = FOLDER / "gpu.json"
        out.unlink(missing_ok=True)
        code, said = call(*BENCH, "--sequences", "64,32,16,8,4", "--out", out, FAILING="sequence: 16", PEER_FULL="4", **there, **environment)
        found = json.loads(out.read_text())
        expect(code == 1 and found["peer"].startswith(str(shared / "tools/torch_gpu.py")) and found["peer"].endswith("torch 2.0"), code, said, found)
        expect([(row["sequence"], "ratio" in row) for row in found["rows"]] == [(64, False), (32, True), (8, True), (4, False)], found)
        expect([("no results in its last line" in row.get("peer_failed", ""), "out of memory" in row.get("peer_failed", "")) for row in found["rows"]]
               == [(True, False), (False, False), (False, False), (False, True)], found)
        expect(len(found["failed"]) == 1 and "the device is gone" in "".join(found["failed"].values()), found)
        last = said.splitlines()[-1]
        expect("sequence=16" in last and "PyTorch, Cell(model='tiny-gpt2', batch=2, sequence=64" in last and "sequence=4," not in last, last)
        expect("1.1 times the tokens/s of PyTorch: yes (at least 1.25, in 2 cells)" in said, said)
    expect(call(*BENCH, "--sequences", "4", "--out", FOLDER / "full.json", PEER_FULL="4", **there)[0] == 0, "a GPU that is full is a result")

    # None that runs: our cells are measured, what PyTorch measured before stays.
    for environment, why in ((there | dict(PYTHONPATH=str(FOLDER / "torch_gone")), "No module named torch"), (dict(PYTHON="/nowhere/python3"), "/nowhere/python3")):
        code, said = call(*BENCH, "--sequences", "32,128", "--out", FOLDER / "gpu.json", **environment)
        found = json.loads((FOLDER / "gpu.json").read_text())
        expect(code == 1 and why in said.splitlines()[-1] and "FAILED" not in said, code, said)
        expect({row["sequence"]: "ratio" in row for row in found["rows"]} == {64: False, 32: True, 8: True, 4: False, 128: False}, found)
        code, said = call(*BENCH, "--sequences", "32", "--out", FOLDER / "none.json", **environment)
        expect(code == 1 and why in json.loads((FOLDER / "none.json").read_text())["peer"] and "FAILED" not in said, code, said)


def check_goes_on():
    """Killed in PyTorch of the second cell: the same call again measures what is missing, what failed last."""
    out, ran = FOLDER / "cut.json", FOLDER / "ran"
    bench = [*BENCH, "--sequences", "8,16,32", "--out", out]
    there = dict(RAN=str(ran), PYTHON=sys.executable, PYTHONPATH=str(FOLDER / "torch_there"))
    code, said = call(*bench, FAILING="sequence: 8}", PEER_CUT="32", **there)
    found = json.loads(out.read_text())
    expect(code == -9 and lines_of(ran) == ["ours 8", "ours 16", "peer 16", "ours 32", "peer 32"], code, said)
    expect([(row["sequence"], "ratio" in row) for row in found["rows"]] == [(16, True), (32, False)] and len(found["failed"]) == 1, found)
    expect(re.search(r"^tiny-gpt2 +2 +16 .* 1\.25$", said, re.M) and found["info"] and found["gpu"] == "none", said, found)
    code, said = call(*bench, **there)
    found = json.loads(out.read_text())
    expect(code == 0 and "going on with" in said and lines_of(ran) == ["peer 32", "ours 8", "peer 8"], code, said)
    expect(len(re.findall(r"^tiny-gpt2 .* 1\.25$", said, re.M)) == 3 and all("ratio" in row for row in found["rows"]) and not found["failed"], said, found)
    expect(call(*bench, **there)[0] == 0 and lines_of(ran) == [], "nothing is missing")
    expect(call(*bench[:-4], "--sequences", "64", "--out", out, "--no-peer", **there)[0] == 0 and lines_of(ran) == ["ours 64"], "one more cell")
    expect({row["sequence"]: "ratio" in row for row in json.loads(out.read_text())["rows"]} == {16: True, 32: True, 8: True, 64: False}, "joined")
    expect(call(*bench, "--rounds", "2", "--no-peer", **there)[0] == 0 and lines_of(ran) == ["ours 8", "ours 16", "ours 32"], "one more round")
    expect(call(*bench, "--no-peer", COMMIT="2", **there)[0] == 0 and len(lines_of(ran)) == 3 and (FOLDER / "cut.json.old").exists(), "another build")
    expect(call(*bench, "--no-peer", "--warm-up", "1", COMMIT="2", **there)[0] == 0 and len(lines_of(ran)) == 3, "other settings")


def check_gpu_bench():
    for options in ("--models tiny-gpt2,gpt2-124", "--models tiny-gpt2,gpt2-124m --sequences 512", "--models gpt2-124m --sequences 1024,512", "--rounds 0",
                    "--steps 5", "--sequences 1024,x"):
        code, said = call("python3", "scripts/bench_gpu.py", "--no-peer", "--preset", "release", "--out", FOLDER / "never.json", *options.split())
        expect(code == 2 and "Traceback" not in said and not (FOLDER / "never.json").exists(), options, code, said)

    # All that is measured on a GPU, where nvidia-smi is not to be found.
    code, said = call("python3", "scripts/bench_gpu.py", "--no-peer", "--preset", "release", "--out", FOLDER / "all.json",
                      PATH=os.pathsep.join(folder for folder in os.environ["PATH"].split(os.pathsep) if not (Path(folder) / "nvidia-smi").exists()))
    found = json.loads((FOLDER / "all.json").read_text())
    expect(code == 0 and len(found["rows"]) == 11 and found["gpu"].startswith("unknown: "), code, said)
    expect("MFU of at least 50 % at 1B: yes (at least 50.0%, in 3 cells)\n" in said and "gpt2-1558m within 32 GiB: yes (0.42 GiB)\n" in said, said)

    # Without epilogues, where they are to be compared; that it fails costs nothing else.
    for failing, ratios in (("(?!)", [None, 1]), ("epilogues: off", [None])):
        out = FOLDER / f"epilogues{len(ratios)}.json"
        code, said = call(*BENCH, "--no-peer", "--sequences", "1024", "--out", out, FAILING=failing)
        found = json.loads(out.read_text())
        expect([row.get("ratio_to_auto") for row in found["rows"]] == ratios and ("off has 1.000 of" in said) == (code == 0), code, said, found)
        expect(code == len(found["failed"]) == 2 - len(ratios), code, said, found)

    sys.path.insert(0, str(REPOSITORY / "scripts"))
    import bench_gpu
    import bench_runs
    with redirect_stdout(io.StringIO()) as said:
        bench_gpu.print_verdicts([dict(model="llama-3.2-1b", mfu=0.6, ratio=1.2, budget="auto"),
                                  dict(model="llama-3.2-1b", mfu=0.49, ratio=1.09, budget="32 GiB", peak_bytes=33 << 30)])
    expect(said.getvalue().count(": NO (") == 3, said.getvalue())

    failed = {}
    with bench_runs.keeps_going(failed, "a cell"):
        bench_runs.start(["sleep", "20"], "it", timeout=0.1)
    expect(re.fullmatch(r"it: not done after 0\.1 s", failed["a cell"]), failed)
    cut = subprocess.run([sys.executable, "-c", "import os, signal\nfrom bench_runs import keeps_going\nwith keeps_going({}, 'a cell'): "
                          "os.kill(os.getpid(), signal.SIGTERM)\nprint('went on')"], cwd=REPOSITORY / "scripts", capture_output=True, text=True)
    expect((cut.returncode, cut.stdout) == (143, ""), cut)


make_repository()
check_visible_gpus()
check_gpu_tests()
check_carried()
check_options()
check_build()
check_smoke()
check_budget()
check_gpu_bench()
check_gpu_check()
check_peer()
check_goes_on()
