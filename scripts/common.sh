# Sourced by the other scripts: where the repository is, how messages look, the environment every run needs.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '\n== %s\n' "$*"; }
die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}
# Prints a command and runs it.
step() {
  printf '+ %s\n' "$*"
  "$@"
}

# OpenBLAS reads its core type when it is loaded; an older one that a shell has preset halves its speed.
use_fast_blas() {
  if grep -qm1 avx512f /proc/cpuinfo 2>/dev/null; then export OPENBLAS_CORETYPE=SkylakeX; fi
}

# Open MPI refuses root unless told; ranks that outnumber cores must give way while they wait.
use_local_mpi() {
  if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
  export OMPI_MCA_mpi_yield_when_idle=1
}

# How many GPUs a program started here sees.
visible_gpus() {
  local listed
  listed=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ') || true
  if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    local visible
    visible=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c '[^[:space:]]') || true
    if [ "$visible" -lt "${listed:-0}" ]; then listed=$visible; fi
  fi
  printf '%s\n' "${listed:-0}"
}
