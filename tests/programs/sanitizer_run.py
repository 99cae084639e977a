#!/usr/bin/env python3
"""Small cases on a GPU under compute-sanitizer: memcheck over what the program's own kernels and its libraries' touch,
racecheck over the shared memory of its own. Exit code 77, with the reason, where there is no GPU, no compute-sanitizer,
or one that does not work on this device; 1 with what it found.
    sanitizer_run.py memcheck|racecheck PROGRAM ARGUMENTS…     PROGRAM ends with 77 where there is no GPU
    sanitizer_run.py --self-test FOLDER"""
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

SKIPPED, FOUND = 77, 86
# Seconds of the program by itself and of it under the sanitizer: less than the test's TIMEOUT together.
ALONE_S, CHECKED_S = 150, 1000
# The line of a sanitizer that cannot work here, whatever its summary says of what it did to the program; others where there is none.
NOT_HERE = re.compile(r".*(Device not supported|No attachable process found).*")
REFUSALS = re.compile(r".*(not supported|unsupported|insufficient (permissions|privileges)|internal sanitizer error|unable to (attach|initialize|inject)|failed to (attach|initialize|inject)|requires (a )?(newer|later) driver).*", re.I)
# Of the runs of the libraries only memory is checked: their kernels order accesses in ways that racecheck does not follow.
TOOLS = {
    "memcheck": (["--tool", "memcheck"], re.compile(r"ERROR SUMMARY: (\d+) error")),
    "racecheck": (["--tool", "racecheck", "--kernel-name", "kernel_substring=plimsoll"],
                  re.compile(r"RACECHECK SUMMARY: (\d+) hazard")),
}


def skip(reason):
    print(f"skipped: {reason}")
    return SKIPPED


def find_sanitizer():
    for folder in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        candidate = Path(folder or "") / "bin/compute-sanitizer"
        if folder and os.access(candidate, os.X_OK):
            return str(candidate)
    return shutil.which("compute-sanitizer")


def check(tool, command):
    options, summary = TOOLS[tool]
    alone = subprocess.run(command, capture_output=True, text=True, timeout=ALONE_S)
    if alone.returncode == SKIPPED and "another build" not in alone.stdout:
        return skip(alone.stdout.strip().removeprefix("skipped: "))
    if alone.returncode != 0:
        print(f"{command} fails by itself (exit code {alone.returncode}):\n{alone.stdout}{alone.stderr}")
        return 1
    sanitizer = find_sanitizer()
    if sanitizer is None:
        return skip("there is no compute-sanitizer here (it comes with the CUDA toolkit)")
    done = subprocess.run([sanitizer, *options, "--error-exitcode", str(FOUND), *command], capture_output=True, text=True,
                          timeout=CHECKED_S)
    said = done.stdout + done.stderr
    found = summary.search(said)
    if refusal := NOT_HERE.search(said) or (found is None and REFUSALS.search(said)):
        return skip(f"compute-sanitizer refuses this device: {refusal.group(0)}")
    if found is None or int(found.group(1)) > 0 or done.returncode != 0:
        print(f"{tool}, exit code {done.returncode}:\n{said[-8000:]}")
        return 1
    print(found.group(0))
    return 0


def self_test(folder):
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "bin").mkdir(parents=True)
    os.environ["CUDA_HOME"] = str(folder)

    def script(path, text):
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    program = script(folder / "program", 'echo ran "$@"')
    without = script(folder / "without", "echo 'skipped: device: cuda: this machine has no NVIDIA driver'; exit 77")
    dead = script(folder / "dead", "echo 'cudaMalloc on GPU 0 failed' >&2; exit 69")
    broken = script(folder / "broken", "exit 3")
    stale = script(folder / "stale", "echo 'libplimsoll_cuda.so is of another build than this program'; exit 77")
    fake = folder / "bin/compute-sanitizer"
    # It runs the program at its end, as the real one does, and with the options of the tool.
    run = 'for last; do :; done; "$last" >/dev/null || exit 1; '
    cases = [
        ("memcheck", program, run + "echo '========= ERROR SUMMARY: 0 errors'", 0),
        ("racecheck", program, run + "echo '========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)'", 0),
        ("racecheck", program, run + 'case "$*" in *kernel_substring=plimsoll*) echo RACECHECK SUMMARY: 0 hazards;; esac', 0),
        ("memcheck", program, "echo '========= ERROR SUMMARY: 3 errors'; exit 86", 1),
        ("racecheck", program, "echo '========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)'", 1),
        ("memcheck", program, "echo '========= ERROR SUMMARY: 0 errors'; exit 5", 1),
        ("memcheck", program, "echo '========= Error: Device not supported'; exit 1", SKIPPED),
        ("memcheck", program, "echo '========= Error: Device not supported'; echo '========= Program hit cudaErrorUnknown (error 999)'; "
         "echo '========= ERROR SUMMARY: 1 error'; exit 86", SKIPPED),
        ("memcheck", program, "echo '========= Error: No attachable process found. compute-sanitizer timed-out.'; exit 1", SKIPPED),
        ("memcheck", program, "echo '========= Program hit cudaErrorNotSupported (error 801) due to operation not supported'; "
         "echo '========= ERROR SUMMARY: 1 error'; exit 86", 1),
        ("memcheck", program, "echo 'unrecognised option'; exit 1", 1),
        ("memcheck", without, "exit 1", SKIPPED),
        ("memcheck", dead, "exit 1", 1),
        ("memcheck", stale, "exit 1", 1),
        ("memcheck", broken, "echo '========= ERROR SUMMARY: 0 errors'", 1),
    ]
    for tool, command, sanitizer, expected in cases:
        script(fake, sanitizer)
        got = check(tool, [command])
        assert got == expected, (tool, command, sanitizer, got, expected)
    fake.unlink()
    if shutil.which("compute-sanitizer") is None and not Path("/usr/local/cuda/bin/compute-sanitizer").exists():
        assert check("memcheck", [program]) == SKIPPED
    return 0


if sys.argv[1] == "--self-test":
    sys.exit(self_test(Path(sys.argv[2])))
sys.exit(check(sys.argv[1], sys.argv[2:]))
