#pragma once
// The update section of a training graph: global norm, then optimizer steps on the flat buffers.

#include "optim/config.hpp"
#include "runtime/model/flat_layout.hpp"

namespace plimsoll {

// An axis whose ranks have different parts of the gradients: the squares are summed over it.
struct NormAxis {
  std::string axis;
  int ranks = 1;
};

struct UpdateOptions {
  OptimizerConfig optimizer;
  int shard_rank = 0;  // of layout.shards
  std::vector<NormAxis> norm_axes;
  std::vector<int> places;  // of the graph's parameters among the `tensors` of the model; empty: the graph has them all
  std::int64_t tensors = 0;
  std::int64_t scratch_bytes = 0;  // what the transport's reduction needs
  bool by_unit = true;             // a step for each unit of the layout; else one for all
};

// The f32 copy of parameters that kernels read in bf16 or f16: what the update changes, and checkpoints hold.
inline constexpr std::string_view kMasterWeights = "optimizer.master";

// Appends the update nodes; the graph is differentiated and its buffers are placed. Moments are persistent values
// "optimizer.first" and "optimizer.second" (AdamW) or "optimizer.momentum" (SGD), laid out as this rank's shards; so is
// kMasterWeights where there is one. They have the dtype of the gradients. With optimizer.rounding: stochastic, which
// needs bf16 (else Error(Internal)), a node of its own rounds behind each step.
void add_update(Graph& graph, const FlatLayout& layout, const UpdateOptions& options);

// Names of the moments, in the order above, as checkpoints call them: PyTorch's "exp_avg", "exp_avg_sq",
// "momentum_buffer". SGD without momentum has none.
struct Moment {
  std::string_view value, checkpoint;
};
std::vector<Moment> optimizer_moments(const OptimizerConfig& optimizer);

// Bytes per parameter of a model that computes in `dtype`, in a rank that holds all of it; optimizer: moments and
// master weights.
struct StateBytes {
  std::int64_t weight, gradient, optimizer;
};
StateBytes state_bytes(DType dtype, const OptimizerConfig& optimizer);

}  // namespace plimsoll
