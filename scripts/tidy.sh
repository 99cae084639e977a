#!/usr/bin/env bash
# Runs clang-tidy on FILE…, or on all sources that a build of the preset compiles.
#   scripts/tidy.sh [FILE…]        PRESET chooses the build (default: dev; it is configured when it is not there)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# Version 14, Debian's default, stumbles over std::views of libstdc++ 12.
tidy=$(command -v clang-tidy-16 || true)
[ -n "$tidy" ] || die "no clang-tidy-16 here: scripts/setup.sh --dev installs it"
preset=${PRESET:-dev}
cd "$root"
[ -f "build/$preset/compile_commands.json" ] || step cmake --preset "$preset"
step cmake --build "build/$preset" --target plimsoll_event_proto  # the one generated header
if [ $# = 0 ]; then
  mapfile -t files < <(find runtime kernels/cpu comm optim parallel launch tests -name '*.cpp' -not -path 'tests/install/*' | sort)
else
  files=("$@")
fi
printf '%s\0' "${files[@]}" | xargs -0 -n 1 -P "$(nproc)" "$tidy" -p "build/$preset" --quiet
