#pragma once
// The collectives of a program, derived from its nodes: what the ranks of an axis must have in the same order, and what
// they will send.

#include <string>
#include <vector>

#include "runtime/graph/graph.hpp"

namespace plimsoll {

enum class CollectiveKind : std::uint8_t { AllReduce, ReduceScatter, AllGather };
constexpr std::string_view collective_name(CollectiveKind kind) {
  return kind == CollectiveKind::AllReduce       ? "all_reduce"
         : kind == CollectiveKind::ReduceScatter ? "reduce_scatter"
                                                 : "all_gather";
}

// One call. `elements`: of what is reduced, or of what the ranks have together after a gather.
struct CollectiveCall {
  std::string axis;
  int ranks = 1;
  CollectiveKind kind = CollectiveKind::AllReduce;
  std::int64_t elements = 0;
  DType dtype = DType::f32;
  std::string label;
  Graph::Section section = Graph::Section::Forward;
  std::uint8_t when = kEveryVariant;
  std::size_t node = 0;  // of the graph
  RankCuts cuts = {};    // of the elements over the ranks; empty: equal parts
  std::int64_t bytes() const { return elements * dtype_bytes(dtype); }
  // A call is over when the rank is done that has most of them: it takes as long as one of so many in equal parts.
  std::int64_t paced_bytes() const {
    return cuts.empty() ? bytes() : ranks * largest_range(elements, ranks, cuts) * dtype_bytes(dtype);
  }
};

// In the order of the nodes, which is that of every stream. Of all axes: those of one axis are in the order in which
// its ranks must call them. Calls over one rank are left out.
std::vector<CollectiveCall> collectives(const Graph& graph);

}  // namespace plimsoll
