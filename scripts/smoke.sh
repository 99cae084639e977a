#!/usr/bin/env bash
# The smoke run: set-up, build, then a real training run on real text under mpirun, and a sample of what was learned.
#   scripts/smoke.sh [--gpu] [--data FILE] [--ranks N] [--set key=value]…
# Text: the King James Bible of Debian's bible-kjv, or FILE. Every run gets a new directory, runs/smoke-<time>.
# --gpu trains on the GPUs of this machine, a rank on each (needs nvcc); without a GPU it ends with 69.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

text=
ranks=
gpu=false
overrides=()
while [ $# -gt 0 ]; do
  case $1 in
    --gpu) gpu=true ;;
    --data) text=$(realpath -e -- "${2:?--data needs a file}"); shift ;;
    --ranks) ranks=${2:?--ranks needs a number}; shift ;;
    --set) overrides+=(--set "${2:?--set needs key=value}"); shift ;;
    -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) die "unknown argument '$1' (usage: scripts/smoke.sh [--gpu] [--data FILE] [--ranks N] [--set key=value]…)" ;;
  esac
  shift
done

preset=release
config=configs/smoke.yaml
if $gpu; then
  need_gpu
  preset=cuda
  config=configs/smoke_gpu.yaml
  ranks=${ranks:-$gpus}
fi
ranks=${ranks:-4}
[[ $ranks =~ ^[1-9][0-9]*$ ]] || die "--ranks $ranks: not a number of ranks"
if $gpu && [ $((64 % ranks)) -ne 0 ]; then  # the batch of its configuration, which 9 or 11 divide in no layout
  overrides=(--set "train.global_batch=$((8 * ranks))" "${overrides[@]}")
fi

"$root/scripts/setup.sh"
"$root/scripts/build.sh" "$preset" plimsoll
cd "$root"
plimsoll=build/$preset/bin/plimsoll
use_fast_blas
use_local_mpi

mkdir -p data
if [ -z "$text" ]; then
  text=data/kjv.txt
  king_james "$text"
  tokens=data/kjv
else
  # A file's name and content choose the prefix, so that two files never share one.
  name=$(basename "$text" | sed 's/\.[^.]*$//; s/[^A-Za-z0-9_-]/_/g')
  tokens=data/smoke-$name-$(cksum <"$text" | cut -d' ' -f1)
fi

if [ -s "$tokens.bin" ] && [ -s "$tokens.idx" ] && [ ! "$text" -nt "$tokens.idx" ]; then
  say "tokens: $tokens is up to date"
else
  say "tokens: $text -> $tokens"
  step "$plimsoll" data prepare "$text" --out "$tokens" --tokenizer byte
fi

stamp=$(date +%Y%m%d-%H%M%S)
run=runs/smoke-$stamp
n=1
until mkdir -p runs && mkdir "$run" 2>/dev/null; do
  n=$((n + 1))
  [ "$n" -lt 100 ] || die "cannot make a run directory like $run"
  run=runs/smoke-$stamp-$n
done

say "training: $ranks ranks -> $run"
step timeout -k 10 600 mpirun --oversubscribe --bind-to none -n "$ranks" \
  "$plimsoll" train "$config" --set "run.dir=$run" --set "data.train=$tokens" "${overrides[@]}"

say "sample of $run"
step timeout -k 10 120 "$plimsoll" generate "$run" --prompt "In the beginning" --tokens 100 --temperature 0.8 --seed 1

say "left in $run"
ls -l "$run" "$run/checkpoints"
