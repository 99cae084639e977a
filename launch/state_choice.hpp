#pragma once
// `parallel.state_shares`: which part each rank has of what ZeRO divides, by the memory that is free on it (planner.md,
// section 3), under the budget of each rank.

#include <string>
#include <vector>

#include "launch/programs.hpp"
#include "launch/rank_budgets.hpp"
#include "parallel/config.hpp"

namespace plimsoll {

// Ranks whose free memory differs by less than this share of it are equal: so much is the noise of a measurement, and
// all wait for the rank with the largest part.
inline constexpr double kLeastStateDifference = 0.05;

// What a plan with equal shares may take so that, with those of `parallel`, every rank fits its budget minus
// `outside_bytes`: sizes are chosen with equal shares under it. Where shares are equal, what the least budget leaves.
// At least 1; 0 without a budget.
std::int64_t even_arena_bytes(const ParallelConfig& parallel, const ProgramOptions& options, const RankBudgets& budgets,
                              std::int64_t outside_bytes);

// The shares of `parallel` for these programs, which are chosen but for them. `auto`: by share_state()
// (runtime/plan/shard_sizes.hpp), in elements. Empty: equal, also where they would not fit otherwise.
std::vector<std::int64_t> choose_state_shares(const ParallelConfig& parallel, const ProgramOptions& options,
                                              const RankBudgets& budgets, std::int64_t outside_bytes);

// "75 % 25 %"
std::string state_shares_text(const std::vector<std::int64_t>& shares);

}  // namespace plimsoll
