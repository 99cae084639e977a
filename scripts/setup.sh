#!/usr/bin/env bash
# Installs the Debian 12 packages that are missing. A machine that has them all needs neither network nor root.
#   scripts/setup.sh          what building, testing and the smoke run need
#   scripts/setup.sh --dev    also what scripts/format.sh and scripts/tidy.sh need
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

packages=(
  g++ cmake ninja-build ccache pkg-config python3
  openmpi-bin libopenmpi-dev
  libyaml-cpp-dev libcli11-dev nlohmann-json3-dev libspdlog-dev libfmt-dev
  protobuf-compiler libprotobuf-dev libsentencepiece-dev libxxhash-dev
  libopenblas-openmp-dev libxsmm-dev libdnnl-dev libeigen3-dev
  libgtest-dev
  bible-kjv
)
[ "${CI:-}" = true ] && packages+=(clang-format)  # for the test of that name
dev_packages=(clang-format clang-tidy-16 libomp-16-dev)  # the last: clang-tidy reads its omp.h

for argument in "$@"; do
  case $argument in
    --dev) packages+=("${dev_packages[@]}") ;;
    -h | --help) sed -n '2,4s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) die "unknown argument '$argument' (usage: scripts/setup.sh [--dev])" ;;
  esac
done

if [ -n "${PLIMSOLL_CARRIED:-}" ]; then
  for program in g++ cmake ninja python3; do command -v "$program" >/dev/null || die "no $program here, and $PLIMSOLL_CARRIED has none"; done
  say "set-up: packages of $PLIMSOLL_CARRIED"
  exit 0
fi

command -v dpkg-query >/dev/null || die "this is no Debian system; install what corresponds to: ${packages[*]}"
missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done

if [ ${#missing[@]} = 0 ]; then
  say "set-up: all ${#packages[@]} packages are installed"
  exit 0
fi

say "set-up: installing ${missing[*]}"
as_root=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || die "not root and no sudo here; as root: apt-get install ${missing[*]}"
  as_root=(sudo)
fi
step "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q update
step "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "${missing[@]}"
