#!/usr/bin/env bash
# Configures and builds one preset; the binary is build/<preset>/bin/plimsoll.
#   scripts/build.sh [dev|release|asan|tsan|cuda|ci|ci-cuda|emulated] [target…]      default: release, all targets
# JOBS limits the parallel compilers (default: all cores, at most one per 1.5 GiB of free memory).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in -h | --help) sed -n '2,4s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
preset=${1:-release}
shift || true
cd "$root"

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

say "build: preset $preset, $jobs jobs"
step cmake --preset "$preset" "${options[@]}"
step cmake --build "build/$preset" -j "$jobs" ${1:+--target "$@"}
printf 'built: build/%s/bin\n' "$preset"
