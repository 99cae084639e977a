#pragma once
// The memory plan for people and for programs: plan.json of a run directory and the output of `plimsoll plan`.

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "launch/programs.hpp"

namespace plimsoll {

struct PlanContext {
  std::int64_t budget_bytes = 0;   // 0: none was given
  std::int64_t outside_bytes = 0;  // what the process needs besides the arena
  std::string outside_source;      // "measured", "memory.reserve", "last run", "estimate"
  int ranks = 1;
};

// Bytes per class, total, budget and margin; with `peak`, everything that is live where the most is live.
std::string plan_text(const Programs& programs, const ProgramOptions& options, const PlanContext& context, bool peak);
nlohmann::json plan_json(const Programs& programs, const ProgramOptions& options, const PlanContext& context);

}  // namespace plimsoll
