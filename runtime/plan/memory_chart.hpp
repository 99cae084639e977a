#pragma once
// A step as a chart: what the stages do, and below it, over the same time, what the memory of a rank holds, class by
// class, under the budget line.

#include <string>

#include "runtime/plan/memory.hpp"
#include "runtime/plan/simulate.hpp"

namespace plimsoll {

struct MemoryLimits {
  std::int64_t outside_bytes = 0;  // of the process, besides the arena
  std::int64_t budget_bytes = 0;   // of the rank; 0: none, and no line
};

// What a rank does in a step: its program, and the actions of its stage. The rest of the step is the update.
struct StepOfRank {
  const Graph* graph = nullptr;
  const Timeline* timeline = nullptr;
  int stage = 0;
};

// What is live from a time on, until the next one.
struct MemorySample {
  double begin_s = 0;
  ClassBytes bytes{};  // without persistent values
};
// Over the step: slots of a pipeline count from the forward of their micro-batch to its last action. The nodes of an
// action share its time equally; of several that share a column of the chart, the one with most counts.
std::vector<MemorySample> memory_samples(const ProgramLayout& layout, const StepOfRank& step);

// A stand-alone SVG document. Upwards: what lies outside of the arena, the persistent values, then what lives in the
// step, stacked; to the right: time. Lines mark the arena's end and the budget. Throws Error(Internal) where the plan
// has no such program.
std::string memory_svg(const MemoryPlan& plan, std::string_view program, const StepOfRank& step,
                       const MemoryLimits& limits);

// The Gantt chart of the step above that of the memory, in one document.
std::string step_svg(const MemoryPlan& plan, std::string_view program, const StepOfRank& step,
                     const MemoryLimits& limits);

}  // namespace plimsoll
