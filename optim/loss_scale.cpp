#include "optim/loss_scale.hpp"

#include <algorithm>

namespace plimsoll {

bool has_loss_scale(DType dtype) { return dtype == DType::f16; }

LossScale first_loss_scale(DType dtype) { return {has_loss_scale(dtype) ? LossScale::kFirst : 1.0, 0}; }

LossScale after_step(LossScale scale, bool applied) {
  if (!applied) return {std::max(LossScale::kLeast, scale.scale / 2), 0};
  if (scale.streak + 1 < LossScale::kGrowAfter) return {scale.scale, scale.streak + 1};
  return {scale.scale * 2, 0};
}

}  // namespace plimsoll
