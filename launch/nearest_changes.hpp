#pragma once
// What a run that does not fit could change: each change alone, with the memory that it leads to.

#include <string>

#include "launch/programs.hpp"

namespace plimsoll {

// "  tensor 1 -> 2: 37.2 GiB (fits)" in lines, those that fit first, the least changed of them (which needs most) on
// top; of those that do not fit, the nearest. Micro-batch, sequence, recomputation, ZeRO, optimizer, and twice the
// ranks along each axis; what model or batch do not allow is left out; nothing for generation, whose
// bytes follow from the model. `options`: of the rank that needs most.
std::string nearest_changes(const ProgramOptions& options, std::int64_t budget_bytes, std::int64_t outside_bytes);

}  // namespace plimsoll
