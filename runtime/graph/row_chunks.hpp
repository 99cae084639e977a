#pragma once
// Nodes cut into chunks of rows: each does its rows of every slot but the parameters, in the memory of the whole
// values.

#include <map>
#include <set>
#include <tuple>

#include "runtime/graph/graph.hpp"

namespace plimsoll {

class RowChunks {
 public:
  // Values `apart` never exist as a whole: their chunks have memory of their own.
  RowChunks(Graph& graph, int chunks, std::set<ValueId> apart = {})
      : graph_(graph), chunks_(chunks), apart_(std::move(apart)) {}
  // Chunk i of a node, of rows or, `of_sequences`, along dim 0. Error(Internal) where these do not divide.
  Node chunk_of(const Node& whole, bool of_sequences, int i);

 private:
  TensorSpec spec_of(TensorSpec spec, bool of_sequences) const;
  ValueId rows_of(ValueId whole, bool of_sequences, int i);

  Graph& graph_;
  int chunks_;
  std::set<ValueId> apart_;
  std::map<std::tuple<ValueId, bool, int>, ValueId> parts_;
};

}  // namespace plimsoll
