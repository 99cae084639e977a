#include "runtime/plan/in_flight.hpp"

#include <algorithm>

namespace plimsoll {
namespace {

// Bytes of a value that has memory of its own.
struct Touch {
  ValueId root;
  std::int64_t begin, end;
  bool writes;
};

std::vector<Touch> touches(const Graph& graph, const Node& node) {
  std::vector<Touch> all;
  for_each_access(graph, node, [&](const MemoryAccess& a) {
    const std::int64_t begin = graph.offset_in_root(a.value);
    all.push_back({graph.root(a.value), begin, begin + graph[a.value].spec.bytes(), a.writes});
  });
  return all;
}

bool depend(const std::vector<Touch>& a, const std::vector<Touch>& b) {
  return std::any_of(a.begin(), a.end(), [&](const Touch& x) {
    return std::any_of(b.begin(), b.end(), [&](const Touch& y) {
      return x.root == y.root && x.begin < y.end && y.begin < x.end && (x.writes || y.writes);
    });
  });
}

}  // namespace

std::size_t in_flight_at_most(const Graph& graph, std::size_t n) {
  const Node& node = graph.nodes[n];
  std::size_t last = n;
  bool computed = false;
  for (std::size_t m = n + 1; m < graph.nodes.size(); ++m) {
    const Node& later = graph.nodes[m];
    if (graph.section(m) != graph.section(n) || later.chunk != node.chunk || later.late != node.late) break;
    const bool computes = later.stream == StreamKind::Compute;
    if (!computes && computed && later.op == node.op && axis_of(later) == axis_of(node)) break;
    computed = computed || computes;
    last = m;
  }
  return last;
}

std::vector<std::size_t> in_flight_until(const Graph& graph) {
  std::vector<std::size_t> until;
  std::vector<std::vector<Touch>> touched;
  for (const Node& node : graph.nodes) touched.push_back(touches(graph, node));
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    const Node& node = graph.nodes[n];
    until.push_back(n);
    if (node.stream == StreamKind::Compute) continue;
    const std::size_t last = in_flight_at_most(graph, n);
    for (std::size_t m = n + 1; m <= last; ++m) {
      const Node& later = graph.nodes[m];
      const bool computes = later.stream == StreamKind::Compute;
      if (computes && (later.when & node.when) != 0 && depend(touched[n], touched[m])) break;
      until.back() = m;
    }
  }
  return until;
}

CopyMemory::CopyMemory(const Graph& graph) : graph_(graph) {
  const auto copies = [](const Node& node) { return op_info(node.op).copies; };
  if (std::any_of(graph.nodes.begin(), graph.nodes.end(), copies))
    until_ = std::make_shared<const std::vector<std::size_t>>(in_flight_until(graph));
}

double CopyMemory::free_at(std::size_t n) {
  if (until_ == nullptr) return 0;
  const Node& node = graph_.nodes[n];
  if (node.op == op_id<FromHost>) return computed_;
  if (node.stream != StreamKind::Compute) return 0;
  double free = 0;
  while (!leaving_.empty() && leaving_.front().until < n) {
    free = leaving_.front().end_s;
    leaving_.erase(leaving_.begin());
  }
  return free;
}

void CopyMemory::ends(std::size_t n, double end_s) {
  if (until_ == nullptr) return;
  const Node& node = graph_.nodes[n];
  if (node.stream == StreamKind::Compute) computed_ = end_s;
  if (node.op == op_id<ToHost>) leaving_.push_back({(*until_)[n], end_s});
}

}  // namespace plimsoll
