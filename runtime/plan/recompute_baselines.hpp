#pragma once
// What is usually done instead of the recompute planner's search, for the report to show beside it. All are put through
// the accounting of recompute_plan.hpp; nullopt where none of their plans fits. `bound_seconds` is not a bound here.

#include "runtime/plan/recompute_plan.hpp"

namespace plimsoll {

// The first k layers keep nothing but their boundary, the others everything; the smallest k that fits. A recomputed
// layer costs its whole forward, with the output projection that backward does not need, as usual implementations do.
std::optional<RecomputePlan> recompute_first_layers(const RecomputeStage& stage, std::int64_t budget_bytes);

// The cheapest keep-set that fits when every layer keeps the tensors of the same names.
std::optional<RecomputePlan> recompute_uniform(const RecomputeStage& stage, std::int64_t budget_bytes);

// From everything kept, drops the tensor that frees a byte for the least time, the first layer first, until it fits.
std::optional<RecomputePlan> recompute_greedy(const RecomputeStage& stage, std::int64_t budget_bytes);

}  // namespace plimsoll
