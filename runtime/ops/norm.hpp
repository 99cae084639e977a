#pragma once
#include "runtime/ops/op.hpp"

namespace plimsoll {

// Normalisation over the last axis h; statistics [rows] per row. Gradients of weight and bias are sums over rows.
// Workspace of InputGrad: partial sums of the parameter gradients, so that their order does not depend on threads.

// Into how many blocks of consecutive rows these sums are split; each block has its own partial sums.
constexpr std::int64_t norm_row_blocks(std::int64_t rows) {
  const std::int64_t blocks = (rows + 15) / 16;
  return blocks < 64 ? blocks : 64;
}

struct NormAttrs {
  double eps = 1e-5;
};

// What the norms share; they differ in their slots: those with a mean have kBias and kMean, those that add kResidual
// and kSum.
template <class Op>
struct Norm : OpDefaults {
  using Attrs = NormAttrs;
  static void infer(const Attrs&, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs& s, Phase phase);
  static std::int64_t workspace_bytes(const Attrs&, const SlotSpecs& s, Phase phase, int threads);
  static std::vector<Sample<Attrs>> samples();
};

namespace norm_slots {
inline constexpr Slot kX{"x", Role::Input, Backward::Reads};
inline constexpr Slot kWeight{"weight", Role::Param, Backward::Reads};
inline constexpr Slot kBias{"bias", Role::Param, Backward::Ignores, true};
inline constexpr Slot kY{"y", Role::Output};
inline constexpr Slot kMean{"mean", Role::Stat, Backward::Reads};
inline constexpr Slot kRstd{"rstd", Role::Stat, Backward::Reads};
// sum = x + residual, in one pass with the norm of sum. The gradient of x and of residual is the same tensor
// d = dsum + norm'(dy), written over dsum (which is absent when nothing else reads sum).
constexpr Slot added(int sum) { return {"x", Role::Input, Backward::Ignores, false, sum}; }
constexpr Slot residual(int x) { return {"residual", Role::Input, Backward::Ignores, false, -1, x}; }
constexpr Slot sum(int x) { return {"sum", Role::Output, Backward::Reads, false, x}; }
}  // namespace norm_slots

// y = (x - mean) · rstd · weight + bias (Ba et al. 2016), rstd = 1 / sqrt(var + eps), biased variance.
struct LayerNorm : Norm<LayerNorm> {
  static constexpr std::string_view name = "layer_norm";
  enum : int { kX, kWeight, kBias, kY, kMean, kRstd };
  static constexpr std::array slots{norm_slots::kX, norm_slots::kWeight, norm_slots::kBias,
                                    norm_slots::kY, norm_slots::kMean,   norm_slots::kRstd};
};

// y = x · rstd · weight, rstd = 1 / sqrt(mean(x²) + eps) (Zhang & Sennrich 2019).
struct RmsNorm : Norm<RmsNorm> {
  static constexpr std::string_view name = "rms_norm";
  enum : int { kX, kWeight, kY, kRstd };
  static constexpr std::array slots{norm_slots::kX, norm_slots::kWeight, norm_slots::kY, norm_slots::kRstd};
};

// sum = x + residual; y = layer_norm(sum).
struct AddLayerNorm : Norm<AddLayerNorm> {
  static constexpr std::string_view name = "add_layer_norm";
  enum : int { kX, kResidual, kWeight, kBias, kSum, kY, kMean, kRstd };
  static constexpr std::array slots{norm_slots::added(kSum), norm_slots::residual(kX), norm_slots::kWeight,
                                    norm_slots::kBias,       norm_slots::sum(kX),      norm_slots::kY,
                                    norm_slots::kMean,       norm_slots::kRstd};
  using Again = LayerNorm;
  static constexpr int again_from = kSum;
  static Attrs again(const Attrs& a) { return a; }
};

// sum = x + residual; y = rms_norm(sum).
struct AddRmsNorm : Norm<AddRmsNorm> {
  static constexpr std::string_view name = "add_rms_norm";
  enum : int { kX, kResidual, kWeight, kSum, kY, kRstd };
  static constexpr std::array slots{norm_slots::added(kSum), norm_slots::residual(kX), norm_slots::kWeight,
                                    norm_slots::sum(kX),     norm_slots::kY,           norm_slots::kRstd};
  using Again = RmsNorm;
  static constexpr int again_from = kSum;
  static Attrs again(const Attrs& a) { return a; }
};

// RMSNorm of each query and key head of packed x [B, T, (heads + 2·kv_heads)·head_dim]; values pass unchanged (Qwen3).
// rstd [B, T, heads + kv_heads].
struct HeadNorm : OpDefaults {
  struct Attrs {
    int heads = 1, kv_heads = 1, head_dim = 1;
    double eps = 1e-6;
  };
  static constexpr std::string_view name = "head_norm";
  enum : int { kX, kQueryWeight, kKeyWeight, kY, kRstd };
  static constexpr std::array slots{
      Slot{"x", Role::Input, Backward::Reads},          Slot{"query_weight", Role::Param, Backward::Reads},
      Slot{"key_weight", Role::Param, Backward::Reads}, Slot{"y", Role::Output},
      Slot{"rstd", Role::Stat, Backward::Reads},
  };
  static void infer(const Attrs& a, SlotSpecs& s);
  static std::int64_t flops(const Attrs& a, const SlotSpecs& s, Phase phase);
  static std::int64_t workspace_bytes(const Attrs& a, const SlotSpecs& s, Phase phase, int threads);
  static std::vector<Sample<Attrs>> samples();
};

}  // namespace plimsoll
