#pragma once
#include "runtime/ops/op.hpp"
#include "runtime/ops/pointwise.hpp"

namespace plimsoll {

// y = act(x · Wᵀ + b). x [..., in]; weight [out, in] (Hugging Face Linear) or, with weight_in_out, [in, out] (GPT-2
// Conv1D). With an activation, `pre` keeps x · Wᵀ + b for backward; InputGrad leaves its gradient over dy, WeightGrad
// reads it there. Without keeps_pre there is no backward of it.
struct Linear : OpDefaults {
  struct Attrs {
    bool weight_in_out = false;
    Activation activation = Activation::None;
    bool keeps_pre = true;
  };
  static constexpr std::string_view name = "linear";
  static constexpr bool splits_backward = true;
  enum : int { kX, kWeight, kBias, kY, kPre };
  static constexpr std::array slots{
      Slot{"x", Role::Input, Backward::WeightGradReads},
      Slot{"weight", Role::Param, Backward::InputGradReads},
      Slot{"bias", Role::Param, Backward::Ignores, true},
      Slot{"y", Role::Output},
      Slot{"pre", Role::Stat, Backward::InputGradReads, true, kY},
  };
  using Again = Activate;
  static constexpr int again_from = kPre;
  static Activate::Attrs again(const Attrs& a) { return {a.activation}; }
  static void infer(const Attrs& a, SlotSpecs& s);
  static std::int64_t flops(const Attrs& a, const SlotSpecs& s, Phase phase);
  static std::int64_t workspace_bytes(const Attrs& a, const SlotSpecs& s, Phase phase, int threads);
  static std::vector<Sample<Attrs>> samples();
};

}  // namespace plimsoll
