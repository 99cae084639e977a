#pragma once
#include "runtime/ops/op.hpp"

namespace plimsoll {

// y[b, t] = weight[tokens[b, t]] (+ positions[step_inputs.position + t]). tokens i32 [B, T]; weight [V, h]; positions
// [P, h]. Backward adds dy's rows to the gradient rows of weight in token order (no atomics: the result does not depend
// on threads). A part of a vocabulary that is split over ranks has the rows from first_row on; the rows of other tokens
// are zero, so that the ranks' y add up to the whole.
struct Embedding : OpDefaults {
  struct Attrs {
    bool part = false;
    std::int64_t first_row = 0;
  };
  static constexpr std::string_view name = "embedding";
  enum : int { kTokens, kWeight, kPositions, kY };
  static constexpr std::array slots{
      Slot{"tokens", Role::Input, Backward::Reads},
      Slot{"weight", Role::Param},
      Slot{"positions", Role::Param, Backward::Ignores, true},
      Slot{"y", Role::Output},
  };
  static void infer(const Attrs& a, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs& s, Phase phase);
  static std::vector<Sample<Attrs>> samples();
};

// y[b, t] = x[b, t] + table[h], or with `positions` + table[step_inputs.position + first_column + t], table [P, h]. x
// [B, T, h]; first_column: of x in a sequence that is split over ranks.
struct AddRows : OpDefaults {
  struct Attrs {
    bool positions = false;
    std::int64_t first_column = 0;
  };
  static constexpr std::string_view name = "add_rows";
  enum : int { kX, kTable, kY };
  static constexpr std::array slots{
      Slot{"x", Role::Input, Backward::Ignores, false, kY},
      Slot{"table", Role::Param},
      Slot{"y", Role::Output, Backward::Ignores, false, kX},
  };
  static void infer(const Attrs& a, SlotSpecs& s);
  static std::int64_t flops(const Attrs&, const SlotSpecs& s, Phase phase);
  static std::vector<Sample<Attrs>> samples();
};

}  // namespace plimsoll
