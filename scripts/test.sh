#!/usr/bin/env bash
# Set-up, build, tests.
#   scripts/test.sh [--slow] [preset] [-- ctest arguments]
# --slow also runs the tests labelled slow. The preset is release, or ci where CI=true.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

preset=release
[ "${CI:-}" = true ] && preset=ci
selection=(-LE slow)
while [ $# -gt 0 ]; do
  case $1 in
    --slow) selection=() ;;
    --) shift; break ;;
    -h | --help) sed -n '2,4s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) die "unknown option '$1' (usage: scripts/test.sh [--slow] [preset] [-- ctest arguments])" ;;
    *) preset=$1 ;;
  esac
  shift
done

"$root/scripts/setup.sh"
"$root/scripts/build.sh" "$preset"

use_fast_blas
use_local_mpi
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0}
export TSAN_OPTIONS=${TSAN_OPTIONS:-ignore_noninstrumented_modules=1}
say "tests: preset $preset"
cd "$root"
step ctest --test-dir "build/$preset" --output-on-failure --timeout 300 -j "$(nproc)" "${selection[@]}" "$@"
