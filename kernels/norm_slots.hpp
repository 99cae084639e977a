#pragma once
// Slots of the norms by what they mean, for kernels that are templates over the op.

#include <type_traits>

#include "runtime/ops/norm.hpp"

namespace plimsoll {

// Slots of an op by what they mean; -1 where the op has none.
struct NormSlots {
  int x, residual, weight, bias, sum, y, mean, rstd;
};
template <class Op>
constexpr NormSlots slots_of_norm() {
  if constexpr (std::is_same_v<Op, LayerNorm>)
    return {Op::kX, -1, Op::kWeight, Op::kBias, -1, Op::kY, Op::kMean, Op::kRstd};
  else if constexpr (std::is_same_v<Op, RmsNorm>)
    return {Op::kX, -1, Op::kWeight, -1, -1, Op::kY, -1, Op::kRstd};
  else if constexpr (std::is_same_v<Op, AddLayerNorm>) {
    return {Op::kX, Op::kResidual, Op::kWeight, Op::kBias, Op::kSum, Op::kY, Op::kMean, Op::kRstd};
  } else {
    return {Op::kX, Op::kResidual, Op::kWeight, -1, Op::kSum, Op::kY, -1, Op::kRstd};
  }
}

}  // namespace plimsoll
