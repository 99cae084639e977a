#!/usr/bin/env bash
# Everything that needs a GPU, in one go: builds the preset cuda, runs the tests labelled gpu, then bench.sh --gpu, which writes
# bench-gpu.json, and bench.sh --budget --gpu, which writes bench-gpu-budget.json. Ends with 69 where there is no GPU, with 1 where something failed;
# lists the tests that were skipped, with the reasons.
#   scripts/gpu_check.sh [--out FILE] [--bench "ARGUMENTS of bench.sh --gpu"] [--no-bench] [-- ctest arguments]
# On a machine without Open MPI, yaml-cpp and so on, and without a network: PLIMSOLL_CARRIED=FOLDER (scripts/carry.py writes it).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

out=bench-gpu.json
bench=()
benched=true
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=${2:?--out needs a file}; shift ;;
    --bench) read -r -a bench <<<"${2:?--bench needs arguments}"; shift ;;
    --no-bench) benched=false ;;
    --) shift; break ;;
    -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) die "unknown argument '$1' (usage: scripts/gpu_check.sh [--out FILE] [--bench ARGUMENTS] [--no-bench] [-- ctest arguments])" ;;
  esac
  shift
done

need_gpu
"$root/scripts/setup.sh"
# What runs on a GPU, and no more: minutes count on a machine that is lent.
"$root/scripts/build.sh" cuda gpu_tests
cd "$root"
use_local_mpi

# Where the program cannot use the GPU that is here, its tests would skip.
found=$(build/cuda/bin/plimsoll info | grep '^cuda ')
say "$found"
case $found in *"not to be used here"*) die "a GPU is here, but the program cannot use it" ;; esac
export PLIMSOLL_GPU_REQUIRED=1  # from here on a GPU that is gone is a failure

failed=()
say "tests labelled gpu"
results=$root/build/cuda/gpu_tests.xml
rm -f "$results"
step ctest --test-dir build/cuda -L gpu --output-on-failure --timeout 300 --no-tests=error --output-junit "$results" "$@" || failed+=("tests labelled gpu")
skipped=$(python3 scripts/skipped_tests.py "$results")
if [ "$benched" = true ]; then
  step "$root/scripts/bench.sh" --gpu --out "$out" "${bench[@]}" || failed+=("bench.sh --gpu")
  step "$root/scripts/bench.sh" --budget --gpu --rounds 1 --out "${out%.json}-budget.json" || failed+=("bench.sh --budget --gpu")
fi
[ -z "$skipped" ] || printf '\n== skipped\n%s\n' "$skipped"
if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
say "passed${skipped:+, but for $(wc -l <<<"$skipped") tests that were skipped}"
