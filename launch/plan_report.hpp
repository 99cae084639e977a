#pragma once
// The memory plan for people and for programs: plan.json of a run directory and the output of `plimsoll plan`.

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "launch/config.hpp"
#include "launch/recompute_report.hpp"
#include "launch/roles.hpp"

namespace plimsoll {

struct PlanContext {
  RankBudgets budget_bytes;        // 0: none was given
  std::int64_t outside_bytes = 0;  // what the process needs besides the arena
  std::string outside_source;      // "measured", "memory.reserve", "last run", "estimate"
  int ranks = 1;
  std::optional<std::int64_t> host_budget_bytes = std::nullopt;  // nullopt: none was given
  std::vector<RecomputeReport> recompute = {};                   // by role; may be empty
};

// The program whose step region is the largest.
const ProgramLayout& largest_program(const MemoryPlan& plan);
// "by the links of comm.cluster": how it is decided what is sent at once.
std::string link_source_text(LinkSource links);
// Of every role of the run: bytes per class, total, budget and margin, and which ranks hold what. `peak`, where given:
// everything that is live in this role where the most is live.
std::string plan_text(const std::vector<RankRole>& roles, const PlanContext& context, const RankRole* peak);
// What the role holds that needs most, and under "roles" every role with its ranks.
nlohmann::json plan_json(const std::vector<RankRole>& roles, const PlanContext& context);
// With what of `config` a run needs that follows it, and the plan_question() that it answers: plan.json.
nlohmann::json whole_plan_json(const Config& config, const nlohmann::json& asked, const std::vector<RankRole>& roles,
                               const PlanContext& context);

}  // namespace plimsoll
