#include "optim/loss_scale.hpp"

#include <algorithm>

namespace plimsoll {

bool has_loss_scale(DType dtype) { return dtype == DType::f16; }

LossScale first_loss_scale(DType dtype, const LossScaleConfig& config) {
  return {has_loss_scale(dtype) ? config.initial : 1.0, 0};
}

LossScale after_step(LossScale scale, bool applied, const LossScaleConfig& config) {
  if (!applied) return {std::max(LossScale::kLeast, scale.scale / 2), 0};
  if (scale.streak + 1 < config.window) return {scale.scale, scale.streak + 1};
  return {scale.scale * 2, 0};
}

}  // namespace plimsoll
