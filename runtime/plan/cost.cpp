#include "runtime/plan/cost.hpp"

#include <algorithm>
#include <cmath>

#include "runtime/core/error.hpp"
#include "runtime/exec/volume.hpp"

namespace plimsoll {
namespace {

bool is_attention(const Node& node) { return node.op == op_id<Attention> || node.op == op_id<CachedAttention>; }

// The time of one section of the program.
struct Section {
  double end_s = 0, exposed_s = 0, weight_grad_s = 0;
};

}  // namespace

std::int64_t traffic_bytes(const Graph& graph, const Node& node) {
  const std::int64_t rows = node.op == op_id<Embedding> ? node.specs[Embedding::kY].bytes() : 0;
  std::int64_t bytes = 0;
  for_each_access(graph, node, [&](const MemoryAccess& access) {
    const std::int64_t all = graph[access.value].spec.bytes();
    bytes += (access.reads ? 1 : 0) * (rows > 0 ? std::min(rows, all) : all);
    bytes += (access.writes ? 1 : 0) * (rows > 0 ? std::min(rows, all) : all);
  });
  return bytes;
}

const LinkDescription& link_of(const ClusterDescription& cluster, int ranks, int stride) {
  return std::int64_t{ranks} * stride <= cluster.devices_per_node ? cluster.inside : cluster.between;
}

double DescribedCosts::node_seconds(const Graph& graph, const Node& node) const {
  const OpInfo& op = op_info(node.op);
  if (op.collective) return 0;
  const DeviceDescription& device = cluster_.device;
  const auto flops = static_cast<double>(op.flops(node.attrs, node.specs, node.phase));
  const DType dtype = compute_dtype(op, node.specs);
  const double rate = (is_attention(node) ? device.attention : device.matmul).of(dtype);
  require(rate > 0, ErrorKind::Config, "the description of '{}' has no rate for {}", device.name, dtype_name(dtype));
  const double by_memory = static_cast<double>(traffic_bytes(graph, node)) / device.memory_bytes_per_s;
  return std::max(flops / rate, by_memory) + device.kernel_overhead_s;
}

double DescribedCosts::collective_seconds(CollectiveKind kind, std::int64_t bytes, int ranks, int stride) const {
  if (ranks == 1) return 0;
  const LinkDescription& link = link_of(cluster_, ranks, stride);
  const double rounds = std::ceil(std::log2(ranks)) * (kind == CollectiveKind::AllReduce ? 2 : 1);
  const auto sent = static_cast<double>(sent_elements(kind, bytes, ranks, 0));
  return rounds * link.latency_s + sent / link.bytes_per_s;
}

double DescribedCosts::memory_seconds(std::int64_t bytes) const {
  return static_cast<double>(bytes) / cluster_.device.memory_bytes_per_s + cluster_.device.kernel_overhead_s;
}

NodeTimes time_nodes(const Graph& graph, const CostModel& costs, const std::function<int(std::string_view)>& strides) {
  std::vector<double> written(graph.values.size(), 0);  // when a root's last writer ends
  std::vector<double> used(graph.values.size(), 0);     // when the last node that touches it ends
  double compute = 0, communication = 0, forward_end = 0;
  Section sections[2];
  std::vector<double> wire(graph.nodes.size(), 0);
  for (const CollectiveCall& call : collectives(graph))
    wire[call.node] += costs.collective_seconds(call.kind, call.bytes(), call.ranks, strides(call.axis));
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    const Node& node = graph.nodes[n];
    const Graph::Section where = graph.section(n);
    if (where == Graph::Section::Update) break;
    if ((node.when & static_cast<std::uint8_t>(Variant::Middle)) == 0) continue;
    double begin = 0;
    for_each_access(graph, node, [&](const MemoryAccess& a) {
      const auto root = static_cast<std::size_t>(graph.root(a.value));
      begin = std::max(begin, a.writes ? used[root] : written[root]);
    });
    const double own = costs.node_seconds(graph, node);
    const bool on_wire = node.stream == StreamKind::Communication;
    double& stream = on_wire ? communication : compute;
    const double waits = std::max(0.0, begin - stream) + wire[n];
    const double end = stream = std::max(stream, begin) + own + wire[n];
    for_each_access(graph, node, [&](const MemoryAccess& a) {
      const auto root = static_cast<std::size_t>(graph.root(a.value));
      used[root] = std::max(used[root], end);
      if (a.writes) written[root] = end;
    });
    Section& section = sections[where == Graph::Section::Forward ? 0 : 1];
    section.end_s = std::max(section.end_s, end);
    if (!on_wire) section.exposed_s += waits;
    if (node.phase == Phase::WeightGrad) section.weight_grad_s += own;
    if (where == Graph::Section::Forward) forward_end = std::max(forward_end, end);
  }
  NodeTimes times;
  times.forward_s = sections[0].end_s;
  times.backward_s = std::max(0.0, sections[1].end_s - forward_end);
  times.weight_grad_s = sections[1].weight_grad_s;
  times.exposed_forward_s = sections[0].exposed_s;
  times.exposed_backward_s = sections[1].exposed_s;
  return times;
}

}  // namespace plimsoll
