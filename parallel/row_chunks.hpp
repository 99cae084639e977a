#pragma once
// Nodes cut into chunks of rows: each does its rows of every slot but the parameters, in the memory of the whole
// values.

#include <map>
#include <tuple>

#include "runtime/graph/graph.hpp"

namespace plimsoll {

class RowChunks {
 public:
  RowChunks(Graph& graph, int chunks) : graph_(graph), chunks_(chunks) {}
  // Chunk i of a node, of rows or, `of_sequences`, along dim 0. Error(Internal) where these do not divide.
  Node chunk_of(const Node& whole, bool of_sequences, int i);

 private:
  TensorSpec spec_of(TensorSpec spec, bool of_sequences) const;
  ValueId rows_of(ValueId whole, bool of_sequences, int i);

  Graph& graph_;
  int chunks_;
  std::map<std::tuple<ValueId, bool, int>, ValueId> parts_;
};

}  // namespace plimsoll
