#pragma once
// The update section of a training graph: global norm, then one optimizer step over the flat buffers.

#include "optim/config.hpp"
#include "runtime/model/transformer.hpp"

namespace plimsoll {

// Appends the update nodes; the graph is differentiated and flattened. Moments are persistent values "optimizer.first"
// and "optimizer.second" (AdamW) or "optimizer.momentum" (SGD), laid out as the parameters.
void add_update(Graph& graph, const FlatLayout& layout, const OptimizerConfig& optimizer);

// Names of the moments, in the order above, as checkpoints call them: PyTorch's "exp_avg", "exp_avg_sq",
// "momentum_buffer".
struct Moment {
  std::string_view value, checkpoint;
};
std::vector<Moment> optimizer_moments(OptimizerName name);

}  // namespace plimsoll
