#pragma once
// What a run chose where the configuration says `auto`: comments of the config.yaml in its run directory.

#include "launch/config.hpp"
#include "launch/programs.hpp"
#include "launch/rank_budgets.hpp"

namespace plimsoll {

// By key. `budgets`, `outside` (memory.reserve) and `host_budget`: bytes per rank; `ranks`: of the run.
Choices run_choices(const Config& config, const ProgramOptions& options, const RankBudgets& budgets,
                    std::int64_t outside, std::int64_t host_budget, int ranks);

}  // namespace plimsoll
