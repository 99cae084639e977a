#include "optim/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace plimsoll {

std::int64_t decay_steps(const ScheduleConfig& schedule, std::int64_t steps) {
  return schedule.decay_steps.value_or(std::max<std::int64_t>(1, steps / 5));
}

double learning_rate(const ScheduleConfig& schedule, double peak, std::int64_t step, std::int64_t steps) {
  if (step < schedule.warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(schedule.warmup);
  const auto fraction = [&](std::int64_t begin) {
    const auto length = static_cast<double>(std::max<std::int64_t>(1, steps - begin));
    return std::clamp(static_cast<double>(step - begin) / length, 0.0, 1.0);
  };
  switch (schedule.name) {
    case ScheduleName::Constant: return peak;
    case ScheduleName::Linear: return peak + (schedule.min_lr - peak) * fraction(schedule.warmup);
    case ScheduleName::Cosine:
      return schedule.min_lr +
             (peak - schedule.min_lr) * 0.5 * (1.0 + std::cos(std::numbers::pi * fraction(schedule.warmup)));
    case ScheduleName::Wsd: {
      const std::int64_t decay = decay_steps(schedule, steps);
      const std::int64_t begin = std::max(schedule.warmup, steps - decay);
      return step < begin ? peak : peak + (schedule.min_lr - peak) * fraction(begin);
    }
  }
  return peak;
}

}  // namespace plimsoll
