#!/usr/bin/env bash
# Everything that needs a GPU: builds the preset cuda (NO_BUILD=1: takes it as it is), then runs those parts that are named, or all, in this order:
#   tests      the tests labelled gpu but the next
#   bench      bench.sh --gpu, which writes build/bench-gpu.json, and bench.sh --budget --gpu, which writes build/bench-gpu-budget.json
#   sanitizer  the tests under compute-sanitizer, of up to twenty minutes each
# Called again it goes on: neither runs tests that passed in this build nor measures what the results have. Ends with 69 where there is no GPU, with 1
# where something failed, or the build's cuDNN is missing or too old (--any-cudnn: goes on); lists the tests that were skipped, with the reasons.
#   scripts/gpu_check.sh [--out FILE] [--bench "ARGUMENTS of bench.sh --gpu"] [--any-cudnn] [tests] [bench] [sanitizer] [-- ctest arguments]
# On a machine without Open MPI, yaml-cpp and so on, and without a network: PLIMSOLL_CARRIED=FOLDER (scripts/carry.py writes it).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

out=build/bench-gpu.json
bench=()
any_cudnn=false
parts=()
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=${2:?--out needs a file}; shift ;;
    --bench) read -r -a bench <<<"${2:?--bench needs arguments}"; shift ;;
    --any-cudnn) any_cudnn=true ;;
    tests | bench | sanitizer) parts+=("$1") ;;
    --) shift; break ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) die "unknown argument '$1' (usage: scripts/gpu_check.sh [--out FILE] [--bench ARGUMENTS] [--any-cudnn] [tests] [bench] [sanitizer] [-- ctest arguments])" ;;
  esac
  shift
done
[ ${#parts[@]} -gt 0 ] || parts=(tests bench sanitizer)

need_gpu
"$root/scripts/setup.sh"
# What runs on a GPU, and no more: minutes count on a machine that is lent.
"$root/scripts/build.sh" cuda gpu_tests
cd "$root"
use_local_mpi

# Where the program cannot use the GPU that is here, its tests would skip; where it does not use cuDNN, every figure would be of slow attention.
found=$(build/cuda/bin/plimsoll info | grep '^cuda')
say "$found"
case $found in *"built, but not to be used here"*) die "a GPU is here, but the program cannot use it" ;; esac
cudnn=$(sed -n 's/.*"cuDNN \([0-9.]*\)".*/\1/p' <<<"$found")  # empty of "cuDNN none"
oldest=$(sed -n 's/.*kOldestCudnn = \([0-9]*\);.*/\1/p' runtime/ops/attention_device.hpp)
IFS=. read -r major minor patch <<<"${cudnn:-0.0.0}"
if [ "$any_cudnn" = false ] && [ $((major * 10000 + minor * 100 + patch)) -lt "${oldest:?kOldestCudnn was not found}" ]; then
  die "cuDNN ${cudnn:-none}, and runs use $oldest or later: scripts/README.md says how to name where it is; --any-cudnn goes on"
fi
unbuilt=$(ctest --test-dir build/cuda -N | sed -n 's/^.*: \(.*gpu_tests\)_NOT_BUILT$/\1/p')
[ -z "$unbuilt" ] || die "not built: ${unbuilt//$'\n'/, }"
export PLIMSOLL_GPU_REQUIRED=1  # from here on a GPU that is gone is a failure

failed=()
arguments=("$@")
kept=$root/build/cuda/gpu_tests
mkdir -p "$kept"

# The tests among those labelled gpu that `grep ARGUMENTS` finds, a ctest for each: what passed in this build has passed, also when the time is up.
run_tests() {
  local test tests results
  mapfile -t tests < <(ctest --test-dir build/cuda -N -L gpu "${arguments[@]}" | sed -n 's/^ *Test *#[0-9]*: //p' | grep "$@")
  found_tests=$((found_tests + ${#tests[@]}))
  for test in "${tests[@]}"; do
    results=$kept/${test//\//_}.xml
    if [ -s "$results" ] && ! grep -q '<skipped' "$results" && [ -z "$(find build/cuda/bin -newer "$results" -print -quit)" ]; then
      printf 'passed before: %s\n' "$test"
      continue
    fi
    rm -f "$results"
    if ctest --test-dir build/cuda -L gpu "${arguments[@]}" -R "^${test//./\\.}\$" --output-on-failure --timeout 300 --no-tests=error \
      --output-junit "$results.part" >"$results.log" 2>&1 && mv "$results.part" "$results"; then
      ran+=("$results")
      printf '%s: %s\n' "$(grep -q '<skipped' "$results" && echo skipped || echo passed)" "$test"
    else
      cat "$results.log"
      failed+=("$test")
    fi
  done
}

ran=()
found_tests=0
for part in "${parts[@]}"; do
  say "$part"
  case $part in
    tests) run_tests -v '^sanitizer\.' ;;
    sanitizer) run_tests '^sanitizer\.' ;;
    bench)
      step "$root/scripts/bench.sh" --gpu --out "$out" "${bench[@]}" || failed+=("bench.sh --gpu")
      step "$root/scripts/bench.sh" --budget --gpu --rounds 1 --out "${out%.json}-budget.json" || failed+=("bench.sh --budget --gpu")
      ;;
  esac
done
[ "${parts[*]}" = bench ] || [ "$found_tests" -gt 0 ] || failed+=("tests: ctest finds none")
skipped=$(python3 scripts/skipped_tests.py "${ran[@]}")
[ -z "$skipped" ] || printf '\n== skipped\n%s\n' "$skipped"
if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
say "passed${skipped:+, but for $(wc -l <<<"$skipped") tests that were skipped}"
