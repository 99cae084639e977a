#!/usr/bin/env bash
# Set-up, build, tests.
#   scripts/test.sh [--slow] [preset] [-- ctest arguments]
# --slow also runs the tests labelled slow. The preset is release, or ci where CI=true. The sanitizers run what they are for:
# asan the unit tests; tsan those with several threads (comm, runtime_device, launch.Training), and it builds no others. ci-cuda
# builds and runs what CUDA is needed for: the tests labelled gpu, which skip where there is none, and cuda. emulated runs the
# kernels among those labelled gpu on an emulated GPU (tests/emulation); it needs the headers of the CUDA toolkit.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

preset=release
[ "${CI:-}" = true ] && preset=ci
selection=(-LE slow)
while [ $# -gt 0 ]; do
  case $1 in
    --slow) selection=() ;;
    --) shift; break ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) die "unknown option '$1' (usage: scripts/test.sh [--slow] [preset] [-- ctest arguments])" ;;
    *) preset=$1 ;;
  esac
  shift
done

targets=()
case $preset in
  ci-cuda)
    targets=(gpu_tests)
    selection=(-L '^(gpu|cuda)$')
    ;;
  emulated)
    targets=(kernels_gpu_tests plimsoll_cuda emulation_tests)
    selection=(-L '^emulated$')
    ;;
  asan)
    selection=(-L unit)
    export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0} UBSAN_OPTIONS=${UBSAN_OPTIONS:-halt_on_error=1:print_stacktrace=1}
    ;;
  tsan)
    targets=(comm_tests runtime_device_tests launch_tests)
    selection=(-R '^(comm|runtime_device|launch\.Training)\.')
    # TSan does not see the barriers of libgomp: it would report every loop that two of its threads share.
    export TSAN_OPTIONS=${TSAN_OPTIONS:-ignore_noninstrumented_modules=1} OMP_THREAD_LIMIT=1
    ;;
esac

"$root/scripts/setup.sh"
"$root/scripts/build.sh" "$preset" "${targets[@]}"

use_fast_blas
use_local_mpi
say "tests: preset $preset"
cd "$root"
step ctest --test-dir "build/$preset" --output-on-failure --timeout 300 -j "$(nproc)" "${selection[@]}" "$@"
