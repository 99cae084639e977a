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

# Packages that are carried instead of installed (carry.py): compilers, CMake, the loader and Open MPI look there first.
if [ -n "${PLIMSOLL_CARRIED:-}" ]; then
  PLIMSOLL_CARRIED=$(realpath -- "$PLIMSOLL_CARRIED")
  [ -d "$PLIMSOLL_CARRIED/usr/include" ] || die "PLIMSOLL_CARRIED=$PLIMSOLL_CARRIED holds no usr/include: scripts/carry.py writes such a folder"
  carried=$PLIMSOLL_CARRIED/usr
  export PLIMSOLL_CARRIED PATH=$carried/bin:$PATH CMAKE_PREFIX_PATH=$carried${CMAKE_PREFIX_PATH:+:$CMAKE_PREFIX_PATH}
  export C_INCLUDE_PATH=$carried/include${C_INCLUDE_PATH:+:$C_INCLUDE_PATH} CPLUS_INCLUDE_PATH=$carried/include${CPLUS_INCLUDE_PATH:+:$CPLUS_INCLUDE_PATH}
  export LIBRARY_PATH=$carried/lib/x86_64-linux-gnu${LIBRARY_PATH:+:$LIBRARY_PATH}
  export LD_LIBRARY_PATH=$carried/lib/x86_64-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export OPAL_PREFIX=$carried PMIX_MCA_mca_base_component_path=$carried/lib/x86_64-linux-gnu/pmix2/lib/pmix
fi

# OpenBLAS reads its core type when it is loaded; an older one that a shell has preset halves its speed.
use_fast_blas() {
  if grep -qm1 avx512f /proc/cpuinfo 2>/dev/null; then export OPENBLAS_CORETYPE=SkylakeX; fi
}

# The King James Bible as plain text, from Debian's package or from what is carried.
king_james() {
  [ -s "$1" ] && return
  say "text: the King James Bible -> $1"
  mkdir -p "$(dirname "$1")"
  if [ -n "${PLIMSOLL_CARRIED:-}" ]; then cp "$PLIMSOLL_CARRIED/kjv.txt" "$1.part"; else bible -f gen1:1-rev22:21 >"$1.part"; fi
  mv "$1.part" "$1"
}

# `gpus`: how many there are here. Ends with 69, as a run with device: cuda would, where there is none.
need_gpu() {
  gpus=$(visible_gpus)
  [ "$gpus" = 0 ] || return 0
  local why="nvidia-smi lists none"
  [ "$(listed_gpus | grep -c '^GPU ')" = 0 ] || why="CUDA_VISIBLE_DEVICES is '$CUDA_VISIBLE_DEVICES'"
  printf '%s: no GPU is visible here (%s)\n' "$(basename "$0")" "$why" >&2
  exit 69
}

# Open MPI refuses root unless told; ranks that outnumber cores must give way while they wait.
use_local_mpi() {
  if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
  export OMPI_MCA_mpi_yield_when_idle=1
}

listed_gpus() { nvidia-smi --list-gpus 2>/dev/null || true; }

# How many GPUs a program started here sees: of CUDA_VISIBLE_DEVICES, as CUDA reads it, those before the first that there is not.
visible_gpus() {
  local listed count=0 entry entries
  listed=$(listed_gpus)
  if [ -z "${CUDA_VISIBLE_DEVICES+set}" ]; then
    grep -c '^GPU ' <<<"$listed" || true
    return
  fi
  IFS=', ' read -r -a entries <<<"$CUDA_VISIBLE_DEVICES"
  for entry in "${entries[@]}"; do
    case $entry in
      GPU-* | MIG-*) grep -qF "(UUID: $entry" <<<"$listed" || break ;;  # the start of a UUID is enough
      '' | *[!0-9]*) break ;;
      *) grep -q "^GPU $entry: " <<<"$listed" || break ;;
    esac
    count=$((count + 1))
  done
  printf '%s\n' "$count"
}
