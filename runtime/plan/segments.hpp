#pragma once
// The memory of a graph's values in pieces that no value has only a part of: what nodes that wait for bytes, not for
// whole buffers, are timed by.

#include <vector>

#include "runtime/graph/graph.hpp"

namespace plimsoll {

class MemorySegments {
 public:
  explicit MemorySegments(const Graph& graph);
  // Those of a value are neighbours.
  struct Range {
    std::size_t begin = 0, end = 0;
  };
  const Range& of(ValueId value) const { return ranges_[static_cast<std::size_t>(value)]; }
  std::size_t count() const { return count_; }

 private:
  std::vector<Range> ranges_;  // by value
  std::size_t count_ = 0;
};

}  // namespace plimsoll
