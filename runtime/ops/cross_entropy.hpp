#pragma once
#include "runtime/ops/op.hpp"

namespace plimsoll {

// The head and the loss in one op, over chunks of rows, so that full logits never exist when chunked:
//   logits = x · Wᵀ;  loss[0] += Σ_valid −log softmax(logits)[target],  loss[1] += number of valid tokens (loss is f64
//   [2]).
// x [B, T, h]; weight [V, h]; targets i32 [B, T], −1 is ignored. `loss` adds up over the micro-batches of a step.
// A terminal op: its gradient needs nothing coming in (step_inputs.loss_seed per valid token), so InputGrad computes
// loss, dx and dW of a chunk while its logits are hot, and training runs no forward node (three products per chunk, not
// four). Forward computes the loss alone, for evaluation.
struct CrossEntropy : OpDefaults {
  struct Attrs {
    std::int64_t chunk_rows = 0;  // rows of logits that exist at a time; 0: all
    // A vocabulary that is split over the ranks of an axis: this rank's weight has the rows from first_row on, of which
    // the first `valid_rows` count (the rest is padding). Logits are never gathered: maxima, sums and the targets'
    // logits are reduced.
    std::string axis{};
    int ranks = 1;
    std::int64_t first_row = 0, valid_rows = 0;
    std::int64_t rows_per_chunk(std::int64_t of_rows) const {
      return chunk_rows == 0 || chunk_rows > of_rows ? of_rows : chunk_rows;
    }
  };
  static constexpr std::string_view name = "cross_entropy";
  static constexpr bool terminal = true;
  enum : int { kX, kWeight, kTargets, kLoss };
  static constexpr std::array slots{
      Slot{"x", Role::Input, Backward::Reads},
      Slot{"weight", Role::Param, Backward::Reads},
      Slot{"targets", Role::Input, Backward::Reads},
      Slot{"loss", Role::Output},
  };
  static void infer(const Attrs& a, SlotSpecs& s);
  static std::int64_t flops(const Attrs& a, const SlotSpecs& s, Phase phase);
  static std::int64_t workspace_bytes(const Attrs& a, const SlotSpecs& s, Phase phase, int threads);
  static std::int64_t reduction_bytes(const Attrs& a, std::int64_t rows);  // of the workspace
  static std::vector<Sample<Attrs>> samples();
};

}  // namespace plimsoll
