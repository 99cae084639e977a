#pragma once
// Recomputation (activation checkpointing, Chen et al. 2016) as a rewrite of the training graph: values that backward
// finds kept, and values that are made again by copies of their forward nodes. A copy is the same op with the same
// attributes, so it makes the same bits: dropout replays its counter, attention makes its log-sum-exp again, a
// collective runs again on all ranks of its group. Nothing else knows about it: memory plan, executor, ZeRO-3's gathers
// and the schedules see nodes in the section of backward.

#include <map>
#include <span>

#include "runtime/graph/graph.hpp"
#include "runtime/plan/config.hpp"

namespace plimsoll {

// What a forward node of a layer makes.
struct RecomputableValue {
  ValueId value;
  std::string name;  // without the layer: "attention.qkv.y"; the same in all layers of a kind
  std::int64_t bytes;
  std::size_t node;     // its forward node in Graph::nodes
  bool backward_reads;  // when dropped, it is made again before the first backward node that reads it
  // The layer's input in backward: whatever else the layer makes follows from the boundary, without other layers.
  // Dropping one makes the layer before part of the same segment.
  bool boundary;
  std::vector<ValueId> inputs;  // what its node reads, without persistent values
  // Another output of the node: where that one is kept or made already, this one is made from it alone, by the cheaper
  // op that the declaration names (OpInfo::again). kNoValue: there is none.
  ValueId again_from = kNoValue;
};
// By layer, in the order in which forward makes them. The graph is that of add_backward().
using LayerValues = std::map<int, std::vector<RecomputableValue>>;
LayerValues recomputable_values(const Graph& graph);
std::vector<RecomputableValue> recomputable_values(const Graph& graph, int layer);

// Values that stay from forward to backward, by layer; what else the layer's nodes make is dropped. A layer without an
// entry keeps everything; so do nodes outside of the layers. A value that backward does not read may be named too: it
// stays when something is made from it.
using KeepSets = std::map<int, std::vector<ValueId>>;

// After add_backward() and before the parameters are placed, so that a recomputed segment uses the gather of backward.
// Every dropped value that backward reads is made again right before its first reader, missing ancestors first, each
// once; it stays until its last reader. Where weight gradients are an action of their own (Node::late) and less would
// have to stay for them that way, it is made once for each half of backward.
void recompute(Graph& graph, const KeepSets& keep);

// The layers of the graph's nodes, in forward order.
std::vector<int> layers_of(const Graph& graph);

// What a mode keeps of a layer: full, its boundary; selective, all but the attention core, which without a T×T tensor
// is its output and log-sum-exp (Korthikanti et al. 2022); none and offload, everything. Auto is not a layer's mode:
// Error(Internal).
std::vector<ValueId> kept_values(const Graph& graph, std::span<const RecomputableValue> values, RecomputeMode mode);

// By model layer; empty: nothing is recomputed. A name (RecomputableValue::name) that the layer does not have is
// Error(Internal); keep_fault() says so before. What is offloaded is kept too, until it goes
// (runtime/graph/offload.hpp).
KeepSets keep_sets(const Graph& graph, std::span<const LayerRecompute> layers);
// Of a layer's values those of these names; one that it does not have is Error(Internal).
std::vector<ValueId> values_named(std::span<const RecomputableValue> values, std::span<const std::string> names);
std::optional<std::string> keep_fault(const Graph& graph, std::span<const LayerRecompute> layers);

// The cheaper node that makes the other outputs of a forward node from the one that its op declares
// (OpInfo::again_from). Only of an op that declares one.
Node again_node(const Node& forward);

// FLOPs of the copies, of one micro-batch.
std::int64_t recompute_flops(const Graph& graph);

}  // namespace plimsoll
