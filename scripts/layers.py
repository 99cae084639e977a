#!/usr/bin/env python3
"""Checks who includes whom.

    scripts/layers.py [ROOT]      exit 1 and one line `file:line: what` for every fault
    scripts/layers.py --self-test builds trees with one fault each and checks that it is found

A folder includes itself and the folders below it (ARROWS). Some libraries have one home (HOMES). Project headers are included
from the root, with quotes, and exist; every header has `#pragma once`.
"""

import re
import sys
import tempfile
from pathlib import Path

ARROWS = {
    "runtime": {"runtime"},
    "kernels": {"kernels", "runtime"},
    "comm": {"comm", "runtime"},
    "optim": {"optim", "runtime"},
    "parallel": {"parallel", "runtime", "optim"},
    "launch": {"launch", "runtime", "kernels", "comm", "optim", "parallel"},
}

# What is included (or, for `argv`, written) -> the only paths where that may be.
HOMES = [
    (r"mpi(-ext)?\.h", [r"comm/mpi_[^/]*\.cpp", r"launch/bootstrap\.cpp", r"tests/support/.*"]),
    (r"nccl.*\.h", [r"comm/nccl_[^/]*\.cpp"]),
    (r"(cublas.*|cudnn.*)\.h", [r"(kernels/cuda|tests/emulation)/.*"]),
    (r"yaml-cpp/.*", [r"launch/.*"]),
    (r"CLI/.*", [r"launch/.*"]),
]

SUFFIXES = {".hpp", ".h", ".cpp", ".cu", ".cuh"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def code_lines(text):
    """Lines without comments, numbered; strings stay as they are."""
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m.group().count("\n"), text, flags=re.S)
    for number, line in enumerate(text.splitlines(), 1):
        yield number, line.split("//", 1)[0]


def check_include(root, path, top, quote, name):
    for pattern, homes in HOMES:
        if re.fullmatch(pattern, name) and not any(re.fullmatch(home, path) for home in homes):
            yield f"<{name}> is not for this file, only for {', '.join(homes)}"
    target = name.split("/", 1)[0]
    is_project = target in ARROWS and "/" in name
    if top in ARROWS:
        if is_project and target not in ARROWS[top]:
            yield f'"{name}": {top} may include {", ".join(sorted(ARROWS[top]))}'
        if name.startswith("tests/"):
            yield f'"{name}": only tests include tests'
    if is_project and quote == "<":
        yield f"<{name}>: the project's headers are included with quotes"
    if quote == '"' and not (root / name).is_file() and not name.endswith(".pb.h"):
        yield f'"{name}": no such file from the root'


def check(root):
    faults = []
    for top in [*ARROWS, "tests"]:
        for file in sorted((root / top).rglob("*")):
            if file.suffix not in SUFFIXES or not file.is_file():
                continue
            path = file.relative_to(root).as_posix()
            text = file.read_text(encoding="utf-8", errors="replace")
            if file.suffix in {".hpp", ".h", ".cuh"} and "#pragma once" not in text:
                faults.append(f"{path}:1: no #pragma once")
            for number, line in code_lines(text):
                match = INCLUDE.match(line)
                if match:
                    faults += [f"{path}:{number}: {w}" for w in check_include(root, path, top, *match.groups())]
                elif top == "runtime" and re.search(r"\bargv\b", line):
                    faults.append(f"{path}:{number}: argv belongs to launch")
    return faults


def self_test():
    """(path, line, a part of the fault, or None when the line is allowed)"""
    cases = [
        ("runtime/core/a.cpp", '#include "comm/group.hpp"', "runtime may include"),
        ("runtime/core/a.cpp", '#include "launch/config.hpp"', "runtime may include"),
        ("runtime/core/a.cpp", '#include "optim/update.hpp"', "runtime may include"),
        ("kernels/cpu/a.cpp", '#include "comm/group.hpp"', "kernels may include"),
        ("kernels/cpu/a.cpp", '#include "parallel/data.hpp"', "kernels may include"),
        ("comm/a.cpp", '#include "kernels/cpu/gemm.hpp"', "comm may include"),
        ("optim/a.cpp", '#include "parallel/data.hpp"', "optim may include"),
        ("parallel/a.cpp", '#include "comm/group.hpp"', "parallel may include"),
        ("parallel/a.cpp", '#include "kernels/cpu/gemm.hpp"', "parallel may include"),
        ("comm/group.cpp", "#include <mpi.h>", "is not for this file"),
        ("launch/trainer.cpp", "#include <mpi.h>", "is not for this file"),
        ("runtime/exec/a.cpp", "  #  include <mpi.h>", "is not for this file"),
        ("comm/mpi_transport.hpp", "#include <mpi.h>", "is not for this file"),
        ("comm/mpi_transport.cpp", "#include <nccl.h>", "is not for this file"),
        ("kernels/cpu/a.cpp", "#include <cublasLt.h>", "is not for this file"),
        ("runtime/core/a.cpp", "#include <yaml-cpp/yaml.h>", "is not for this file"),
        ("runtime/core/a.cpp", "#include <CLI/CLI.hpp>", "is not for this file"),
        ("tests/comm/a_test.cpp", "#include <mpi.h>", "is not for this file"),
        ("runtime/core/a.cpp", "int main(int argc, char** argv);", "argv belongs"),
        ("runtime/core/a.cpp", '#include "missing.hpp"', "no such file"),
        ("runtime/core/a.cpp", "#include <runtime/core/error.hpp>", "with quotes"),
        ("launch/a.cpp", '#include "tests/support/x.hpp"', "only tests"),
        ("runtime/core/b.hpp", "int x;", "no #pragma once"),
        ("parallel/a.cpp", '#include "optim/update.hpp"', None),
        ("launch/a.cpp", '#include "kernels/cpu/gemm.hpp"', None),
        ("launch/bootstrap.cpp", "#include <mpi.h>", None),
        ("comm/mpi_transport.cpp", "#include <mpi.h>", None),
        ("tests/support/a.cpp", "#include <mpi.h>", None),
        ("kernels/cuda/a.cu", "#include <cublasLt.h>", None),
        ("launch/a.cpp", "#include <yaml-cpp/yaml.h>", None),
        ("runtime/core/a.cpp", '// #include "comm/group.hpp"', None),
        ("runtime/core/a.cpp", '/* \n#include "comm/group.hpp"\n*/', None),
    ]
    targets = ["runtime/core/error.hpp", "comm/group.hpp", "launch/config.hpp", "optim/update.hpp", "kernels/cpu/gemm.hpp",
               "parallel/data.hpp", "tests/support/x.hpp"]
    wrong = 0
    for path, line, expected in cases:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for target in [*targets, path]:
                (root / target).parent.mkdir(parents=True, exist_ok=True)
                (root / target).write_text("#pragma once\n")
            keep = "" if expected == "no #pragma once" else "#pragma once\n"
            (root / path).write_text(keep + line + "\n")
            faults = check(root)
            ok = not faults if expected is None else len(faults) == 1 and expected in faults[0]
            if not ok:
                wrong += 1
                print(f"{path}: {line!r}: expected {expected!r}, found {faults}")
    print(f"self-test: {len(cases) - wrong} of {len(cases)} cases as expected")
    return wrong


def main():
    if sys.argv[1:] == ["--self-test"]:
        return 1 if self_test() else 0
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    faults = check(root)
    print("\n".join(faults) if faults else "layers: no faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
