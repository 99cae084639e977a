#pragma once
// The same choices for layouts that are compared (launch/layout_choice.hpp). What copies to host memory beside compute
// cost is looked for less far and bounded by nothing: a layout that is chosen may cost less once it is planned as the
// one that there is. Where nothing is copied beside compute, these are the choices of the others.

#include "launch/run_setup.hpp"

namespace plimsoll {

// As choose_programs(), to train.
ProgramOptions choose_programs_quickly(const Config& config, const Place& place, const RankBudgets& budgets,
                                       std::int64_t outside_bytes, std::int64_t host_bytes, const CostModel& costs);

// As choose_recompute().
RecomputeChoice choose_recompute_quickly(const ProgramOptions& options, const CostModel& costs,
                                         std::int64_t arena_bytes, bool to_the_least);

}  // namespace plimsoll
