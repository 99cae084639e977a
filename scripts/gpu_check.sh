#!/usr/bin/env bash
# Everything that needs a GPU, in one go: builds the preset cuda, runs the tests labelled gpu and golden_check on tests/golden, then
# bench.sh --gpu, which writes bench-gpu.json. Ends with 69 where there is no GPU, with 1 where something failed.
#   scripts/gpu_check.sh [--out FILE] [--bench "ARGUMENTS of bench.sh --gpu"] [--no-bench]
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
    -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) die "unknown argument '$1' (usage: scripts/gpu_check.sh [--out FILE] [--bench ARGUMENTS] [--no-bench])" ;;
  esac
  shift
done

need_gpu
"$root/scripts/setup.sh"
# What runs on a GPU, and no more: minutes count on a machine that is lent.
"$root/scripts/build.sh" cuda plimsoll golden_check kernels_gpu_tests
cd "$root"
use_local_mpi

failed=()
say "tests labelled gpu"
step ctest --test-dir build/cuda -L gpu --output-on-failure --timeout 300 || failed+=("tests labelled gpu")
say "golden models on the GPU, alone and shared by ranks"
check=build/cuda/bin/golden_check
launch=(mpirun --oversubscribe --bind-to none -n)
for precision in fp32 bf16 fp16; do
  step "$check" --device=cuda --precision=$precision tests/golden/*/ || failed+=("golden_check in $precision")
done
# Sizes of the others are no multiples of 16.
step "$check" --device=cuda --precision=fp8 tests/golden/gpt2_erf || failed+=("golden_check in fp8")
for mesh in "2 --zero=1" "2 --tensor=2 --sequence" "2 --pipeline=2" "4 --tensor=2 --zero=3" "4 --pipeline=2 --zero=1"; do
  read -r -a words <<<"$mesh"
  step "${launch[@]}" "${words[0]}" "$check" --device=cuda "${words[@]:1}" tests/golden/*/ || failed+=("golden_check on $mesh")
done
if [ "$benched" = true ]; then
  step "$root/scripts/bench.sh" --gpu --out "$out" "${bench[@]}" || failed+=("bench.sh --gpu")
fi
if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
say "all passed"
