#pragma once
// The layers of a training graph as the recompute planner sees them, and its answer as what the graph rewrite keeps
// (runtime/graph/recompute.hpp).
//
// What a node makes is one tensor, since it is made again together. It is two where the op declares a cheaper way from
// one of its outputs: that one, which costs what is left of the node, and the others, which cost the cheaper op and are
// kept only with it. And it is two where backward reads some and others are on the way to further values: these are
// never kept (what is made from them is). So the costs of every choice add up to those of the copies that the rewrite
// makes, but for copies that are made for both halves of backward (zero-bubble schedules).
//
// Memory is that of the tensors, gradients and workspaces of a layer in the order of its nodes; what lies outside of
// the layers counts only at the head. The byte plan of the whole program is what decides (launch/recompute_choice.hpp).

#include "runtime/graph/recompute.hpp"
#include "runtime/plan/cost.hpp"
#include "runtime/plan/recompute_plan.hpp"

namespace plimsoll {

struct GraphStage {
  RecomputeStage stage;
  std::vector<int> layers;                                   // their numbers in the model, as stage.layers
  std::vector<std::vector<std::vector<std::string>>> names;  // by kind and tensor: values; none where it is an input
  std::vector<std::array<std::vector<bool>, 2>> modes;       // by kind: which tensors full and selective keep
  double micro_batch_seconds = 0;    // forward and backward of the graph, with collectives, one node after another
  double beside_copies_seconds = 0;  // of these, all but the compute of backward: beside copies to the host

  // Are there collectives among what may be made again?
  bool communicates_again() const;
};

struct GraphStageOptions {
  int threads = 1;
  int in_flight = 1;        // micro-batches between forward and backward
  bool slots = false;       // and what is saved lies in slots (runtime/plan/memory.hpp)
  bool row_splits = false;  // may MLPs run in blocks of rows?
  // May values wait for backward in host memory? Then: do their copies run beside compute, or take its time?
  std::optional<bool> offload_overlap = std::nullopt;
  bool boundaries_leave = false;  // may the layers' boundaries, too?
};

// The graph is that of add_backward(), with at least one layer. The planner may use segments where nothing is made a
// third time, which is what the rewrite does when boundaries are dropped. The link to host memory is the
// line through what `costs` say of copies of the smallest and the largest value that a layer makes.
GraphStage graph_stage(const Graph& graph, const CostModel& costs, const GraphStageOptions& options);

// The same, where the first `layers` may send `bytes` of a micro-batch each to host memory and the others nothing.
GraphStage with_host_limit(GraphStage stage, int layers, std::int64_t bytes);
// The same, where those may that are so many, as far apart as they can be.
GraphStage with_spread_host_limit(GraphStage stage, int layers, std::int64_t bytes);

// The choices of a plan without segments dealt out anew, so that layers of one kind with the same choice are as far
// apart as they can be: what copies to host memory leave free of the link, the layers between them need.
std::vector<LayerChoice> spread_choices(const RecomputeStage& stage, const std::vector<LayerChoice>& choices);

// What the choices of a plan are for the rewrite, by layer of the stage; as a mode where it is one. Error(Internal) on
// choices that it cannot make.
std::vector<LayerRecompute> layer_recompute(const GraphStage& stage, const RecomputePlan& plan);

// What it adds to a micro-batch that the layers' MLPs run in LayerRecompute::rows blocks (of which every node costs
// what it costs for fewer rows): forward and backward, without what the copies take longer. Of a graph with everything
// kept.
double row_split_seconds(const Graph& keeping, const CostModel& costs, std::span<const LayerRecompute> layers);

// Seconds of the copies in a rewritten graph, with their collectives, of one micro-batch. Collectives within layers are
// of neighbouring ranks.
double recompute_seconds(const Graph& graph, const CostModel& costs);

}  // namespace plimsoll
