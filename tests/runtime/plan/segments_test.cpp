// Memory in pieces: values meet where their bytes do, and only there.

#include "runtime/plan/segments.hpp"

#include <gtest/gtest.h>

namespace plimsoll {
namespace {

ValueId add(Graph& graph, std::int64_t elements, ValueId base = kNoValue, std::int64_t first = 0) {
  Value v;
  v.spec = {{elements}, DType::f32};
  v.base = base;
  v.byte_offset = first * 4;
  return graph.add_value(std::move(v));
}

TEST(MemorySegments, MeetWhereTheBytesDo) {
  Graph graph;
  const ValueId whole = add(graph, 100), other = add(graph, 100);
  struct Part {
    ValueId value;
    std::int64_t first, end;
  };
  std::vector<Part> parts{{whole, 0, 100}};
  for (const auto& [first, end] : {std::pair{0, 10}, {10, 30}, {5, 12}, {30, 100}, {0, 100}, {99, 100}})
    parts.push_back({add(graph, end - first, whole, first), first, end});
  parts.push_back({add(graph, 5, parts[2].value, 10), 20, 25});  // of a part
  const MemorySegments segments(graph);
  const auto meet = [&](ValueId a, ValueId b) {
    const auto [x, y] = std::pair{segments.of(a), segments.of(b)};
    return x.begin < y.end && y.begin < x.end;
  };
  for (const Part& a : parts) {
    EXPECT_FALSE(meet(a.value, other));
    EXPECT_LE(segments.of(a.value).end, segments.count());
    for (const Part& b : parts)
      EXPECT_EQ(meet(a.value, b.value), a.first < b.end && b.first < a.end)
          << a.first << "-" << a.end << " and " << b.first << "-" << b.end;
  }
}

}  // namespace
}  // namespace plimsoll
