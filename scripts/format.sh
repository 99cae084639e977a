#!/usr/bin/env bash
# Formats all C++ sources with .clang-format; with --check, lists what would change and fails. The test format_check runs that
# where clang-format is installed, as it is in CI.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
command -v clang-format >/dev/null || die "no clang-format here: scripts/setup.sh --dev installs it"
mode=(-i)
case ${1:-} in
  '') ;;
  --check) mode=(--dry-run --Werror) ;;
  *) die "unknown argument '$1' (usage: scripts/format.sh [--check])" ;;
esac
cd "$root"
find runtime kernels comm optim parallel launch tests \( -name '*.hpp' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0 |
  xargs -0 clang-format "${mode[@]}"
