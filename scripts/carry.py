#!/usr/bin/env python3
"""Copies what building and running need of this machine's Debian packages, for a machine that lacks them and has no network.

    scripts/carry.py FOLDER      writes FOLDER/usr (headers, CMake files, programs, the shared libraries that these load) and FOLDER/kjv.txt

There, PLIMSOLL_CARRIED=FOLDER makes all scripts use the copies (scripts/common.sh). What is not carried: compilers, CMake, ninja,
Python, CUDA, and the libraries of fast matrix products on the CPU, without which Eigen multiplies."""
import re
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = ["openmpi-bin", "openmpi-common", "libopenmpi-dev", "libopenmpi3", "libpmix2", "libyaml-cpp-dev", "libcli11-dev", "nlohmann-json3-dev",
            "libspdlog-dev", "libfmt-dev", "protobuf-compiler", "libprotobuf-dev", "libsentencepiece-dev", "libxxhash-dev", "libeigen3-dev",
            "libgtest-dev", "googletest", "ninja-build"]
# Which of those files no build reads. Of static libraries the only ones that are linked are kept.
LEFT_OUT = ["/usr/share/doc/", "/usr/share/man/", "/usr/share/lintian/", "/usr/lib/python3/", "/usr/lib/x86_64-linux-gnu/fortran/", "/usr/src/",
            "/usr/bin/ompi_info", "/usr/share/bash-completion/", "/usr/include/eigen3/unsupported/"]
STATIC = ["libprotobuf-lite.a", "libgtest.a", "libgtest_main.a", "libgmock.a", "libgmock_main.a"]
# Every machine with a compiler has these, and they must be of one piece with its loader.
OF_THE_SYSTEM = ["linux-vdso", "ld-linux", "libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so", "libutil.so", "libresolv.so", "libgcc_s.so",
                 "libstdc++.so", "libgomp.so"]
# Debian's links of these names are made when a package is set up, so no package lists them.
ALTERNATIVES = ["mpirun", "mpiexec", "mpicc", "mpicxx", "mpic++"]


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def files_of(package):
    for line in output("dpkg", "-L", package).splitlines():
        path = Path(line)
        unread = any(line.startswith(prefix) for prefix in LEFT_OUT) or (path.suffix == ".a" and path.name not in STATIC)
        if line.startswith("/usr/") and not unread and not (path.is_dir() and not path.is_symlink()):
            yield path


def libraries_of(path):
    """Shared libraries that `path` loads, and those load in turn, by the names it asks for; itself by the name that others ask for."""
    with open(path, "rb") as file:
        if file.read(4) != b"\x7fELF":
            return
    if name := re.search(r"SONAME.*\[(.+)\]", subprocess.run(["readelf", "-d", str(path)], capture_output=True, text=True).stdout):
        yield name.group(1), path.resolve()
    for line in subprocess.run(["ldd", str(path)], capture_output=True, text=True).stdout.splitlines():
        words = line.split()
        if "=>" in words and words[2].startswith("/") and not any(words[0].startswith(name) for name in OF_THE_SYSTEM):
            yield words[0], Path(words[2]).resolve()


def copy(source, target):
    """Relative links stay links, any other becomes the file it leads to."""
    if target.exists() or target.is_symlink():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink() and not source.readlink().is_absolute():
        target.symlink_to(source.readlink())
        if not source.is_dir():
            copy(source.parent / source.readlink(), target.parent / source.readlink())
    else:
        shutil.copy2(source.resolve(), target)


def copy_library(name, file, folder):
    """Where the loader found it may be a link, also of a folder (/lib is /usr/lib); its copy lies with the others."""
    copy(file, folder / file.name)
    if not (folder / name).exists():
        (folder / name).symlink_to(file.name)


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    if (folder / "usr").exists():
        sys.exit(f"carry.py: {folder}/usr is there already")
    libraries = {}
    for package in PACKAGES:
        for path in files_of(package):
            if not path.exists():
                continue  # a link into a package that is not installed
            copy(path, folder / path.relative_to("/"))
            if path.is_file():
                libraries |= dict(libraries_of(path))
    for name in ALTERNATIVES:
        copy(Path(f"/usr/bin/{name}").resolve(), folder / "usr/bin" / name)
    for name, path in libraries.items():
        copy_library(name, path, folder / "usr/lib/x86_64-linux-gnu")
    with open(folder / "kjv.txt", "w") as text:  # what the smoke run and the benchmarks train on
        subprocess.run(["bible", "-f", "gen1:1-rev22:21"], stdout=text, check=True)
    files = [f for f in folder.rglob("*") if f.is_file() and not f.is_symlink()]
    print(f"{folder}: {len(files)} files, {sum(f.stat().st_size for f in files) / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
