#pragma once
// Linears whose three products have fp8 operands, which are summed in f32 (Micikevicius et al. 2022). See
// fp8_scaling.hpp for the scales.

#include "runtime/ops/fp8_scaling.hpp"
#include "runtime/ops/op.hpp"

namespace plimsoll {

// Of a linear's `scaling`, behind "<layer>.<label>.": a persistent value of its own until an update is added (optim).
inline constexpr std::string_view kFp8ScalingName = "fp8_scaling";

// y = x in e4m3, scaled; the largest |x| is left in `scaling`. Has no gradient: what reads y takes x beside it, whose
// gradient passes by the rounding. `scaling` f32 [2, 3]: an Fp8Scaling; making y again changes nothing of it.
struct QuantizeFp8 : OpDefaults {
  struct Attrs {};
  static constexpr std::string_view name = "quantize_fp8";
  static constexpr bool straight_through = true;
  enum : int { kX, kScaling, kY };
  static constexpr std::array slots{Slot{"x", Role::Input}, Slot{"scaling", Role::State}, Slot{"y", Role::Output}};
  static void infer(const Attrs&, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs& s, Phase phase);
  static std::vector<Sample<Attrs>> samples();
};

// y = x · Wᵀ + b, weight [out, in] or, with weight_in_out, [in, out], as linear; x itself is not read, but its copy x8
// in e4m3, and what backward keeps is that. W is quantised to e4m3 and dy to e5m2 where they are used, the largest
// magnitudes left in `scaling`; the gradient of the bias is the sum of dy as it came. On a GPU the rows of x, `in` and
// `out` are multiples of kFp8Multiple.
struct LinearFp8 : OpDefaults {
  struct Attrs {
    bool weight_in_out = false;
  };
  static constexpr std::string_view name = "linear_fp8";
  static constexpr bool splits_backward = true;
  enum : int { kX, kX8, kWeight, kBias, kScaling, kY };
  static constexpr std::array slots{
      Slot{"x", Role::Input},
      Slot{"x8", Role::Input, Backward::WeightGradReads},
      Slot{"weight", Role::Param, Backward::InputGradReads},
      Slot{"bias", Role::Param, Backward::Ignores, true},
      Slot{"scaling", Role::State, Backward::Reads},
      Slot{"y", Role::Output},
  };
  static void infer(const Attrs& a, SlotSpecs& s);
  static std::int64_t flops(const Attrs& a, const SlotSpecs& s, Phase phase);
  // What the product reads: on a GPU one-byte copies of the operands that are quantised or turned for it, and what the
  // library takes; on the host both operands in the dtype of x, which holds what fp8 rounded them to.
  static std::int64_t workspace_bytes(const Attrs& a, const SlotSpecs& s, Phase phase, int threads);
  // Numbers of the operands that the product of a phase rounds to fp8, or turns, before it multiplies: 0 of one that is
  // read as it is. `threads` as of workspace_bytes().
  static std::array<std::int64_t, 2> made_elements(const SlotSpecs& s, Phase phase, int threads);
  static std::vector<Sample<Attrs>> samples();
};

// What cuBLASLt takes of fp8 are dims of whole 16 bytes.
inline constexpr std::int64_t kFp8Multiple = 16;

// The workspace of LinearFp8: two operands, each from a multiple of kFp8Alignment on; on a GPU then the inverses of
// their scales, and what is left for the library.
inline constexpr std::int64_t kFp8Alignment = 256;
constexpr std::int64_t fp8_operand_bytes(std::int64_t elements, int element_bytes) {
  return (elements * element_bytes + kFp8Alignment - 1) / kFp8Alignment * kFp8Alignment;
}

// Once a step, when all ranks agree on the maximums: takes them into the histories and decides the scales of the next
// step. scaling f32 [linears, 2, 3], history f32 [linears, 3, kFp8History].
struct UpdateFp8Scales : OpDefaults {
  struct Attrs {};
  static constexpr std::string_view name = "update_fp8_scales";
  static constexpr bool update_only = true;
  enum : int { kScaling, kHistory };
  static constexpr std::array slots{Slot{"scaling", Role::State}, Slot{"history", Role::State}};
  static void infer(const Attrs&, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs& s, Phase phase);
  static std::vector<Sample<Attrs>> samples();
};

}  // namespace plimsoll
