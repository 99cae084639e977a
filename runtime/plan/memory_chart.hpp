#pragma once
// The memory of a rank over one step as a chart: what is live at each node, class by class, under the budget line.

#include <string>

#include "runtime/plan/memory.hpp"

namespace plimsoll {

struct MemoryLimits {
  std::int64_t outside_bytes = 0;  // of the process, besides the arena
  std::int64_t budget_bytes = 0;   // of the rank; 0: none, and no line
};

// A stand-alone SVG document. Upwards: what lies outside of the arena, the persistent values, then what lives in the
// step, stacked; to the right: the nodes of `program` in their order. Lines mark the arena's end and the budget.
// Throws Error(Internal) where the plan has no such program.
std::string memory_svg(const MemoryPlan& plan, std::string_view program, const MemoryLimits& limits);

}  // namespace plimsoll
