#pragma once
#include "runtime/ops/op.hpp"

namespace plimsoll {

// y[b, t] = weight[tokens[b, t]] (+ positions[step_inputs.position + t]). tokens i32 [B, T]; weight [V, h]; positions
// [P, h]. Backward adds dy's rows to the gradient rows of weight in token order (no atomics: the result does not depend
// on threads).
struct Embedding : OpDefaults {
  struct Attrs {};
  static constexpr std::string_view name = "embedding";
  enum : int { kTokens, kWeight, kPositions, kY };
  static constexpr std::array slots{
      Slot{"tokens", Role::Input, Backward::Reads},
      Slot{"weight", Role::Param},
      Slot{"positions", Role::Param, Backward::Ignores, true},
      Slot{"y", Role::Output},
  };
  static void infer(const Attrs&, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs& s, Phase phase);
  static std::vector<Sample<Attrs>> samples();
};

}  // namespace plimsoll
