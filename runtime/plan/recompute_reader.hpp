#pragma once
// The layers of a training graph in the terms of the recompute planner, one by one (runtime/plan/recompute_graph.hpp
// says how nodes become tensors).

#include "runtime/graph/row_splits.hpp"
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
  double seconds = 0;                // GraphStage::micro_batch_seconds
  double beside_copies_seconds = 0;  // and that
};

// Nodes in blocks of rows, of a graph with everything kept.
class RowCosts {
 public:
  RowCosts(const Graph& graph, const CostModel& costs) : graph_(graph), costs_(costs) {}
  // What a node takes longer so.
  double more_seconds(std::size_t node, int blocks);

 private:
  Graph graph_;  // with the values of blocks
  const CostModel& costs_;
};
// Backward nodes of such a part of a layer, in order.
std::vector<std::size_t> backward_of(const Graph& graph, int layer, const RowBlock& block);

ReadStage read_stage(const Graph& graph, const CostModel& costs, const GraphStageOptions& options);

}  // namespace plimsoll
