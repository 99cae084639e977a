#pragma once
// Where parameters, their gradients and moments lie in the flat buffers that updates and reductions act on, and which
// elements of which checkpoint tensor they are.

#include <functional>
#include <span>

#include "runtime/graph/graph.hpp"
#include "runtime/tensor/rank_cuts.hpp"

namespace plimsoll {

// Parameters that are used together: those of a layer, or those before or after all layers. A range of the flat buffer:
// what is reduced or gathered at once.
struct Unit {
  std::string name;  // "embedding", "layer 3", "head"
  int layer = -1;
  std::int64_t offset = 0, elements = 0;  // with padding
  std::int64_t decay_elements = 0;        // the first ones decay
  RankCuts cuts;                          // of the elements, over the shards; empty: equal
};

// Units in the order in which backward finishes them: the reverse of the model. Each has as many elements as can be cut
// into `shards` equal parts on cache lines, whatever its parts are, so that shares move no parameter; parameters begin
// on cache lines.
struct FlatLayout {
  std::int64_t elements = 0;
  int shards = 1;
  std::vector<Unit> units;
  std::vector<std::int64_t> offset;  // by parameter of Graph::parameters
  std::vector<int> unit;             // by parameter
};
// `shares`: weights of the shards, not negative and not all zero; a shard has that share of every unit to half a cache
// line at either end, and so perhaps nothing of a small one. Empty: equal.
FlatLayout flat_layout(const Graph& graph, int shards = 1, std::span<const std::int64_t> shares = {});

// Elements of a unit that are in shard `rank`, from the beginning of the unit; and of all units together.
ElementRange shard_range(const FlatLayout& layout, const Unit& unit, int rank);
std::int64_t shard_elements(const FlatLayout& layout, int rank);

// This rank's shard of a unit in the flat buffer `buffer` (of Graph::named), which holds all of every unit, or this
// shard of every unit; a new value.
ValueId unit_part(Graph& graph, const FlatLayout& layout, std::string_view buffer, std::size_t unit, int shard_rank);

// Elements of one checkpoint tensor that are neighbours in it and in the flat buffer.
struct TensorRun {
  const ParameterPart* part;
  const Parameter* parameter;
  std::int64_t tensor_first, flat_first, count;
};
void for_each_run(const Graph& graph, const FlatLayout& layout, const std::function<void(const TensorRun&)>& visit);

// The part of [first, first + count) of the whole flat buffer that lies in shard `rank`, and where it lies in a buffer
// that holds this shard of every unit one after another.
struct ShardRange {
  std::int64_t flat_first, shard_first, count;
};
void for_each_shard_range(const FlatLayout& layout, int rank, std::int64_t first, std::int64_t count,
                          const std::function<void(const ShardRange&)>& visit);

}  // namespace plimsoll
