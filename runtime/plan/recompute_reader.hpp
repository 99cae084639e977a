#pragma once
// The layers of a training graph in the terms of the recompute planner, one by one (runtime/plan/recompute_graph.hpp
// says how nodes become tensors).

#include "runtime/plan/recompute_graph.hpp"

namespace plimsoll {

struct ReadLayer {
  LayerKind kind;  // without a name
  std::vector<std::vector<std::string>> names;
  std::array<std::vector<bool>, 2> modes;
  bool operator==(const ReadLayer&) const = default;
};

struct ReadStage {
  std::vector<int> numbers;  // of the layers, in the model
  std::vector<ReadLayer> layers;
  std::int64_t head_bytes = 0;
  double seconds = 0;  // GraphStage::micro_batch_seconds
};

ReadStage read_stage(const Graph& graph, const CostModel& costs, const GraphStageOptions& options);

}  // namespace plimsoll
