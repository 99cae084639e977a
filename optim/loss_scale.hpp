#pragma once
// Dynamic loss scale of fp16 (Micikevicius et al. 2018): gradients are made of a multiple of the loss, so that small
// ones do not vanish. It is halved after a step whose gradients were not finite, which changes nothing, but not below
// 1, and doubled after LossScaleConfig::window applied steps in a row.

#include <cstdint>

#include "optim/config.hpp"
#include "runtime/tensor/dtype.hpp"

namespace plimsoll {

struct LossScale {
  static constexpr double kLeast = 1;

  double scale = 1;
  std::int64_t streak = 0;  // applied steps in a row since it changed
  bool operator==(const LossScale&) const = default;
};

// Of the first step of a run; other dtypes than f16 have range enough: always 1.
bool has_loss_scale(DType dtype);
LossScale first_loss_scale(DType dtype, const LossScaleConfig& config);
// Of the next step. Not of a dtype without one.
LossScale after_step(LossScale scale, bool applied, const LossScaleConfig& config);

}  // namespace plimsoll
