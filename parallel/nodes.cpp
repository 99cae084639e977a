#include "parallel/nodes.hpp"

#include <algorithm>

namespace plimsoll {

void insert_nodes(Graph& graph, Inserts inserts) {
  std::stable_sort(inserts.begin(), inserts.end(),
                   [](const Insert& a, const Insert& b) { return a.position() < b.position(); });
  std::size_t forward = 0, backward = 0;
  for (const Insert& i : inserts) {
    forward += graph.section(i.beside) == Graph::Section::Forward ? 1 : 0;
    backward += graph.section(i.beside) == Graph::Section::Backward ? 1 : 0;
  }
  std::vector<std::pair<int, bool>> places;  // nodes are moved from below
  for (const Node& n : graph.nodes) places.emplace_back(n.chunk, n.late);
  std::vector<Node> merged;
  merged.reserve(graph.nodes.size() + inserts.size());
  std::size_t next = 0;
  for (std::size_t n = 0; n <= graph.nodes.size(); ++n) {
    for (; next < inserts.size() && inserts[next].position() == n; ++next) {
      const auto& [chunk, late] = places[inserts[next].beside];
      inserts[next].node.chunk = chunk;
      inserts[next].node.late = late;
      merged.push_back(std::move(inserts[next].node));
    }
    if (n < graph.nodes.size()) merged.push_back(std::move(graph.nodes[n]));
  }
  graph.nodes = std::move(merged);
  if (graph.backward_begin != SIZE_MAX) graph.backward_begin += forward;
  if (graph.update_begin != SIZE_MAX) graph.update_begin += forward + backward;
}

std::vector<std::size_t> last_writes(const Graph& graph) {
  std::vector<std::size_t> last(graph.values.size(), 0);
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    for_each_access(graph, graph.nodes[n], [&](const MemoryAccess& a) {
      if (!a.writes) return;
      last[static_cast<std::size_t>(a.value)] = n;
      if (const ValueId base = graph[a.value].base; base != kNoValue) last[static_cast<std::size_t>(base)] = n;
    });
  }
  return last;
}

}  // namespace plimsoll
