#include "runtime/plan/cost.hpp"

#include <algorithm>
#include <cmath>

#include "runtime/core/error.hpp"
#include "runtime/exec/volume.hpp"
#include "runtime/ops/attention_device.hpp"
#include "runtime/plan/in_flight.hpp"
#include "runtime/plan/segments.hpp"

namespace plimsoll {
namespace {

bool is_attention(const Node& node) { return node.op == op_id<Attention> || node.op == op_id<CachedAttention>; }

// Others take as long as their memory does, also in a precision that a device has no products in: sums in fp64.
bool makes_products(const Node& node) {
  return is_attention(node) || node.op == op_id<Linear> || node.op == op_id<LinearFp8>;
}

// Before a linear in fp8 multiplies: operands are read in the dtype of x, or as the bytes that they are, and written as
// bytes.
double fp8_operands_s(const Node& node, const DeviceDescription& device) {
  double seconds = 0;
  for (const std::int64_t elements : LinearFp8::made_elements(node.specs, node.phase, kDeviceThreads)) {
    if (elements == 0) continue;
    const auto bytes = static_cast<double>(elements * (1 + dtype_bytes(node.specs[LinearFp8::kX].dtype)));
    seconds += bytes / device.memory_bytes_per_s + device.kernel_overhead_s;
  }
  return seconds;
}

// Attention that our own kernels of a GPU compute.
bool is_tiled_attention(const Node& node) {
  if (node.op != op_id<Attention>) return is_attention(node);
  return fused_slices(std::get<op_id<Attention>>(node.attrs), node.specs, node.phase).samples == 0;
}

// The products of a node, and the precision in which they are made.
struct Products {
  double flops = 0;
  DType dtype = DType::f32;
};
Products products_of(const Node& node, KernelsOf kernels) {
  const OpInfo& op = op_info(node.op);
  const auto flops = static_cast<double>(op.flops(node.attrs, node.specs, node.phase));
  if (kernels == KernelsOf::Gpu && is_tiled_attention(node))
    return {node.phase == Phase::InputGrad ? flops * kTiledBackwardProducts : flops, DType::f32};
  return {flops, node.op == op_id<LinearFp8> ? DType::f8e4m3 : compute_dtype(op, node.specs)};
}

// The time of one section of the program.
struct Section {
  double end_s = 0, exposed_s = 0, weight_grad_s = 0;
};

}  // namespace

LinkOperation operation_of(CollectiveKind kind) {
  switch (kind) {
    case CollectiveKind::ReduceScatter: return LinkOperation::ReduceScatter;
    case CollectiveKind::AllGather: return LinkOperation::AllGather;
    default: return LinkOperation::AllReduce;
  }
}

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

DescribedCosts::DescribedCosts(ClusterDescription cluster, KernelsOf kernels)
    : cluster_(std::move(cluster)), kernels_(kernels) {
  for (const MeasuredLink& link : cluster_.measured)
    measured_.emplace(std::tuple{link.operation, link.ranks, link.stride}, link.table());
}

double DescribedCosts::node_seconds(const Graph& graph, const Node& node) const {
  const OpInfo& op = op_info(node.op);
  if (op.collective) return 0;
  const DeviceDescription& device = cluster_.device;
  if (op.copies) return device.host.latency_s + static_cast<double>(node.specs[0].bytes()) / device.host.bytes_per_s;
  const auto [flops, dtype] = products_of(node, kernels_);
  const double rate = (is_attention(node) ? device.attention : device.matmul).of(dtype);
  require(rate > 0 || !makes_products(node), ErrorKind::Config, "the description of '{}' has no rate for {}",
          device.name, dtype_name(dtype));
  const double by_products = rate > 0 ? flops / rate : 0;
  const double by_memory = static_cast<double>(traffic_bytes(graph, node)) / device.memory_bytes_per_s;
  return std::max(by_products, by_memory) + device.kernel_overhead_s +
         (node.op == op_id<LinearFp8> ? fp8_operands_s(node, device) : 0);
}

double DescribedCosts::collective_seconds(CollectiveKind kind, std::int64_t bytes, int ranks, int stride) const {
  if (ranks == 1) return 0;
  const auto found = measured_.find({operation_of(kind), ranks, stride});
  if (found != measured_.end()) return found->second.seconds(static_cast<double>(bytes));
  const LinkDescription& link = link_of(cluster_, ranks, stride);
  const double rounds = std::ceil(std::log2(ranks)) * (kind == CollectiveKind::AllReduce ? 2 : 1);
  const auto sent = static_cast<double>(sent_elements(kind, bytes, ranks, 0));
  return rounds * link.latency_s + sent / link.bytes_per_s;
}

double DescribedCosts::collective_slows(CollectiveKind kind, int ranks, int stride) const {
  for (const MeasuredLink& link : cluster_.measured) {
    if (link.operation == operation_of(kind) && link.ranks == ranks && link.stride == stride) return link.slows;
  }
  return 0;
}

double DescribedCosts::memory_seconds(std::int64_t bytes) const {
  return static_cast<double>(bytes) / cluster_.device.memory_bytes_per_s + cluster_.device.kernel_overhead_s;
}

namespace {

// One node on the clock of its stream.
struct PlayedNode {
  std::size_t node;
  Graph::Section section;
  StreamKind stream;
  double own_s, waits_s, end_s;  // waits_s: what its stream waits, and its own collectives
};

template <class Visit>
void play_nodes(const Graph& graph, const CostModel& costs, const std::function<int(std::string_view)>& strides,
                Variant when, const Visit& visit) {
  const MemorySegments segments(graph);
  std::vector<double> written(segments.count(), 0);  // when a segment's last writer ends
  std::vector<double> used(segments.count(), 0);     // when the last node that touches it ends
  std::array<double, kStreamKinds> free_at{};
  std::vector<double> wire(graph.nodes.size(), 0);
  for (const CollectiveCall& call : collectives(graph))
    wire[call.node] += costs.collective_seconds(call.kind, call.paced_bytes(), call.ranks, strides(call.axis));
  CopyMemory memory(graph);
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    const Node& node = graph.nodes[n];
    const Graph::Section where = graph.section(n);
    if (where == Graph::Section::Update) break;
    if ((node.when & static_cast<std::uint8_t>(when)) == 0) continue;
    double begin = memory.free_at(n);
    for_each_access(graph, node, [&](const MemoryAccess& a) {
      const auto [first, last] = segments.of(a.value);
      for (std::size_t s = first; s < last; ++s) begin = std::max(begin, a.writes ? used[s] : written[s]);
    });
    const double own = costs.node_seconds(graph, node);
    double& stream = free_at[static_cast<std::size_t>(node.stream)];
    const double waits = std::max(0.0, begin - stream) + wire[n];
    const double end = stream = std::max(stream, begin) + own + wire[n];
    memory.ends(n, end);
    for_each_access(graph, node, [&](const MemoryAccess& a) {
      const auto [first, last] = segments.of(a.value);
      for (std::size_t s = first; s < last; ++s) {
        used[s] = std::max(used[s], end);
        if (a.writes) written[s] = end;
      }
    });
    visit(PlayedNode{n, where, node.stream, own, waits, end});
  }
}

}  // namespace

NodeTimes time_nodes(const Graph& graph, const CostModel& costs, const std::function<int(std::string_view)>& strides) {
  double forward_end = 0;
  Section sections[2];
  play_nodes(graph, costs, strides, Variant::Middle, [&](const PlayedNode& played) {
    const bool forward = played.section == Graph::Section::Forward;
    Section& section = sections[forward ? 0 : 1];
    section.end_s = std::max(section.end_s, played.end_s);
    if (played.stream == StreamKind::Compute) section.exposed_s += played.waits_s;
    if (graph.nodes[played.node].phase == Phase::WeightGrad) section.weight_grad_s += played.own_s;
    if (forward) forward_end = std::max(forward_end, played.end_s);
  });
  NodeTimes times;
  times.forward_s = sections[0].end_s;
  times.backward_s = std::max(0.0, sections[1].end_s - forward_end);
  times.weight_grad_s = sections[1].weight_grad_s;
  times.exposed_forward_s = sections[0].exposed_s;
  times.exposed_backward_s = sections[1].exposed_s;
  return times;
}

std::vector<double> node_ends(const Graph& graph, const CostModel& costs,
                              const std::function<int(std::string_view)>& strides, Variant when) {
  std::vector<double> ends(graph.nodes.size(), -1);
  play_nodes(graph, costs, strides, when, [&](const PlayedNode& played) { ends[played.node] = played.end_s; });
  double last = 0;
  for (double& end : ends) {
    if (end < 0) end = last;
    last = std::max(last, end);
  }
  return ends;
}

}  // namespace plimsoll
