#include "runtime/plan/segments.hpp"

#include <algorithm>

namespace plimsoll {

MemorySegments::MemorySegments(const Graph& graph) : ranges_(graph.values.size()) {
  // By root: where values of it begin and end.
  std::vector<std::vector<std::int64_t>> bounds(graph.values.size());
  std::vector<std::pair<std::size_t, std::int64_t>> place;  // by value: root, first byte
  for (std::size_t v = 0; v < graph.values.size(); ++v) {
    const auto id = static_cast<ValueId>(v);
    place.emplace_back(static_cast<std::size_t>(graph.root(id)), graph.offset_in_root(id));
    const auto& [root, first] = place.back();
    bounds[root].push_back(first);
    bounds[root].push_back(first + graph[id].spec.bytes());
  }
  std::vector<std::size_t> first_of(graph.values.size(), 0);
  for (std::size_t root = 0; root < bounds.size(); ++root) {
    std::vector<std::int64_t>& at = bounds[root];
    std::sort(at.begin(), at.end());
    at.erase(std::unique(at.begin(), at.end()), at.end());
    first_of[root] = count_;
    count_ += at.size();  // one more than there are pieces
  }
  for (std::size_t v = 0; v < graph.values.size(); ++v) {
    const auto& [root, first] = place[v];
    const std::vector<std::int64_t>& at = bounds[root];
    const auto index = [&](std::int64_t byte) {
      return first_of[root] + static_cast<std::size_t>(std::lower_bound(at.begin(), at.end(), byte) - at.begin());
    };
    ranges_[v] = {index(first), index(first + graph[static_cast<ValueId>(v)].spec.bytes())};
  }
}

}  // namespace plimsoll
