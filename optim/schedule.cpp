#include "optim/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace plimsoll {

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
      const std::int64_t decay = schedule.decay_steps.value_or(std::max<std::int64_t>(1, steps / 5));
      const std::int64_t begin = std::max(schedule.warmup, steps - decay);
      return step < begin ? peak : peak + (schedule.min_lr - peak) * fraction(begin);
    }
  }
  return peak;
}

}  // namespace plimsoll
