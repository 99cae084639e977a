#!/usr/bin/env bash
# Configures and builds one preset; the binary is build/<preset>/bin/plimsoll.
#   scripts/build.sh [dev|release|asan|tsan|cuda|ci|ci-cuda|emulated] [-DKEY=VALUE…] [target…]      default: release, all targets
# -D goes to CMake, which keeps it for later builds of the preset. JOBS limits the parallel compilers (default: all cores, at most one per
# 1.5 GiB of free memory). NO_BUILD=1 takes what was built as it is, in every script that builds: for sources whose file times are all new.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
preset=${1:-release}
shift || true
cd "$root"

if [ -n "${NO_BUILD:-}" ]; then
  [ -x "build/$preset/bin/plimsoll" ] || die "NO_BUILD=$NO_BUILD, but there is no build/$preset/bin/plimsoll"
  say "build: none (NO_BUILD=$NO_BUILD); build/$preset as it is"
  exit 0
fi

jobs=$(nproc)
if available_kib=$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo 2>/dev/null) && [ -n "$available_kib" ]; then
  fitting=$((available_kib / (1536 * 1024)))
  if [ "$fitting" -lt "$jobs" ]; then jobs=$((fitting > 1 ? fitting : 1)); fi
fi
jobs=${JOBS:-$jobs}

options=()
if command -v ccache >/dev/null; then
  options+=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  case $preset in *cuda) options+=(-DCMAKE_CUDA_COMPILER_LAUNCHER=ccache) ;; esac
fi

targets=()
for argument in "$@"; do
  case $argument in
    -D*) options+=("$argument") ;;
    *) targets+=("$argument") ;;
  esac
done

say "build: preset $preset, $jobs jobs"
step cmake --preset "$preset" "${options[@]}"
step cmake --build "build/$preset" -j "$jobs" ${targets[0]+--target "${targets[@]}"}
printf 'built: build/%s/bin\n' "$preset"
