#!/usr/bin/env bash
# Training speed and memory on this machine, beside PyTorch where that is installed.
#   scripts/bench.sh [--rounds N] [--steps N] [--out FILE] [--models gpt2,small] [--precision fp32,bf16] [--mesh]
#   scripts/bench.sh --overlap [--rounds N] [--steps N] [--out FILE] [--rate 1gbit] [--chunks K] [--only NAME]   two ranks over a slow link; needs root
#   scripts/bench.sh --budget [--gpu] [--rounds N] [--steps N] [--percent 100,50] [--out FILE]   GPT-2 124M under budgets of its activation peak
#   scripts/bench.sh --sizer [--zero N] [--rounds N] [--steps N] [--out FILE] [--only NAME]   buckets of gradients over two slow links; needs root
#   scripts/bench.sh --layouts [--rounds N] [--steps N] [--out FILE]   parallel: auto against every layout of two ranks
#   scripts/bench.sh --plans [--verify] [--out FILE]   configs/large on the clusters that they are for; trains nothing
#   scripts/bench.sh --shares [--rounds N] [--steps N] [--micro-batches N] [--rivals N] [--out FILE]   even and uneven shares with one slow rank
#   scripts/bench.sh --gpu [--rounds N] [--steps N] [--models gpt2-124m,gpt2-1558m,llama-3.2-1b] [--sequences 1024,2048,4096] [--no-peer] [--out FILE]   bf16 on one GPU
# --gpu and --budget, called again, go on with the --out of a call that was cut off. NO_BUILD=1 takes what was built.
# PYTHON names a python3 with torch; tools/torch_bench.sh and tools/torch_gpu.py run it, of PLIMSOLL_SHARED, ../shared or shared.
#   scripts/bench.sh --pipeline [--rounds N] [--steps N] [--micro-batches N] [--layers N] [--hidden N]
# Two stages, a core each, under every schedule: the step that was measured and the one that the simulator predicts.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Which benchmark, wherever among the options it is named; --gpu is one, and an option of another.
what=
gpu=false
options=()
for argument in "$@"; do
  case $argument in
    --pipeline | --plans | --overlap | --budget | --layouts | --sizer | --shares)
      [ -z "$what" ] || die "--$what and $argument are two benchmarks"
      what=${argument#--}
      ;;
    --gpu) gpu=true ;;
    *) options+=("$argument") ;;
  esac
done
preset=release
if $gpu; then
  case $what in
    '') what=gpu ;;
    budget) options+=(--gpu) ;;
    *) die "--$what has no --gpu" ;;
  esac
  need_gpu
  preset=cuda
fi

"$root/scripts/setup.sh"
if [ "$what" = pipeline ]; then
  "$root/scripts/build.sh" release pipeline_bench
  use_fast_blas
  use_local_mpi
  exec mpirun -n 2 --bind-to core "$root/build/release/bin/pipeline_bench" "${options[@]}"
fi
"$root/scripts/build.sh" "$preset" plimsoll
cd "$root"
if [ "$what" = plans ]; then exec python3 scripts/bench_plans.py "${options[@]}"; fi
use_fast_blas
use_local_mpi
king_james data/kjv.txt
[ -s data/kjv.idx ] || "build/$preset/bin/plimsoll" data prepare data/kjv.txt --out data/kjv
exec python3 "scripts/bench${what:+_$what}.py" "${options[@]}"
