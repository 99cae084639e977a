#include "runtime/plan/offload_costs.hpp"

#include <algorithm>
#include <array>

#include "runtime/graph/recompute.hpp"

namespace plimsoll {
namespace {

template <class Op>
double copy_seconds(const Graph& graph, ValueId value, const CostModel& costs) {
  Node node;
  node.op = op_id<Op>;
  node.attrs = Attrs(std::in_place_index<op_id<Op>>);
  for (const int slot : {Op::kX, Op::kY}) {
    node.value[static_cast<std::size_t>(slot)] = value;
    node.specs.set(slot, graph[value].spec);
  }
  node.stream = StreamKind::Copy;
  return costs.node_seconds(graph, node);
}

// Copies of `costs` for nothing.
class FreeCopies : public CostModel {
 public:
  explicit FreeCopies(const CostModel& costs) : costs_(costs) {}
  double node_seconds(const Graph& graph, const Node& node) const override {
    return op_info(node.op).copies ? 0 : costs_.node_seconds(graph, node);
  }
  double collective_seconds(CollectiveKind kind, std::int64_t bytes, int ranks, int stride) const override {
    return costs_.collective_seconds(kind, bytes, ranks, stride);
  }
  double collective_slows(CollectiveKind kind, int ranks, int stride) const override {
    return costs_.collective_slows(kind, ranks, stride);
  }
  double memory_seconds(std::int64_t bytes) const override { return costs_.memory_seconds(bytes); }

 private:
  const CostModel& costs_;
};

}  // namespace

HostLink host_link(const Graph& graph, std::span<const int> layers, const CostModel& costs, bool overlap) {
  std::vector<RecomputableValue> values;
  LayerValues all = recomputable_values(graph);
  for (const int layer : layers) values.insert(values.end(), all[layer].begin(), all[layer].end());
  const auto [small, large] =
      std::minmax_element(values.begin(), values.end(),
                          [](const RecomputableValue& a, const RecomputableValue& b) { return a.bytes < b.bytes; });
  const auto low = static_cast<double>(small->bytes), high = static_cast<double>(large->bytes);
  HostLink link;
  link.overlap = overlap;
  const double first[] = {copy_seconds<ToHost>(graph, small->value, costs),
                          copy_seconds<FromHost>(graph, small->value, costs)};
  const double last[] = {copy_seconds<ToHost>(graph, large->value, costs),
                         copy_seconds<FromHost>(graph, large->value, costs)};
  for (int way = 0; way < 2; ++way) {
    if (high > low) link.latency_seconds += std::max(0.0, (first[way] * high - last[way] * low) / (high - low)) / 2;
  }
  // One way may have been measured faster than the latency of both.
  const auto rate = [&](double seconds) { return high / std::max(seconds - link.latency_seconds, seconds / 100); };
  link.to_host_bytes_per_second = rate(last[0]);
  link.from_host_bytes_per_second = rate(last[1]);
  return link;
}

double offload_seconds(const Graph& graph, const CostModel& costs, bool overlap) {
  if (!overlap) {
    double sum = 0;
    for (const Node& node : graph.nodes) sum += op_info(node.op).copies ? costs.node_seconds(graph, node) : 0;
    return sum;
  }
  const auto neighbours = [](std::string_view) { return 1; };
  const NodeTimes with = time_nodes(graph, costs, neighbours);
  const NodeTimes without = time_nodes(graph, FreeCopies(costs), neighbours);
  return std::max(0.0, with.forward_s + with.backward_s - without.forward_s - without.backward_s);
}

}  // namespace plimsoll
