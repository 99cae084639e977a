#pragma once
#include "optim/config.hpp"

namespace plimsoll {

// Learning rate of step 0 … steps − 1. Warm-up: lr · (step + 1) / warmup. Then with progress u = (step − warmup) /
// (steps − warmup): constant lr; linear lr → min_lr; cosine min_lr + (lr − min_lr)(1 + cos πu)/2 (Loshchilov & Hutter
// 2017); wsd: lr until the last decay_steps, then linear to min_lr (Hu et al. 2024, MiniCPM). min_lr is reached at step
// `steps`, behind the last one, as in Megatron-LM, where a step has the rate of the samples before it; nanoGPT makes
// that step too.
double learning_rate(const ScheduleConfig& schedule, double peak, std::int64_t step, std::int64_t steps);

// How long the decay of wsd is in a run of `steps`.
std::int64_t decay_steps(const ScheduleConfig& schedule, std::int64_t steps);

}  // namespace plimsoll
