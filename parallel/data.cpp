#include "parallel/data.hpp"

#include <algorithm>

namespace plimsoll {
namespace {

Node all_reduce_node(Graph& graph, ValueId value, ValueId scratch, const std::string& label, int ranks) {
  Node node;
  node.op = op_id<AllReduce>;
  node.phase = Phase::Reduce;
  node.attrs = Attrs(std::in_place_index<op_id<AllReduce>>, AllReduce::Attrs{"data", ranks});
  node.label = label;
  node.stream = StreamKind::Communication;
  node.when = kFinalVariants;
  node.value[AllReduce::kX] = value;
  node.value[AllReduce::kScratch] = scratch;
  node.specs.set(AllReduce::kX, graph[value].spec);
  node.specs.set(AllReduce::kScratch, graph[scratch].spec);
  return node;
}

}  // namespace

std::vector<Bucket> gradient_buckets(const Graph& graph, const FlatLayout& layout, std::int64_t bucket_bytes) {
  std::vector<std::size_t> last_write(graph.values.size(), 0);
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    for_each_access(graph, graph.nodes[n], [&](const MemoryAccess& a) {
      if (a.writes) last_write[static_cast<std::size_t>(a.value)] = n;
    });
  }
  std::vector<std::size_t> order(graph.parameters.size());
  for (std::size_t p = 0; p < order.size(); ++p) order[p] = p;
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return layout.offset[a] < layout.offset[b]; });
  const std::int64_t limit =
      std::max<std::int64_t>(1, bucket_bytes / dtype_bytes(graph[graph.find("gradients")].spec.dtype));
  std::vector<Bucket> buckets;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const std::int64_t begin = layout.offset[order[i]];
    const std::int64_t end = i + 1 < order.size() ? layout.offset[order[i + 1]] : layout.elements;
    const std::size_t ready = last_write[static_cast<std::size_t>(graph.parameters[order[i]].gradient)];
    if (buckets.empty() || end - buckets.back().offset > limit) buckets.push_back({begin, 0, ready});
    buckets.back().elements = end - buckets.back().offset;
    buckets.back().ready_after = std::max(buckets.back().ready_after, ready);
  }
  return buckets;
}

void add_data_parallel(Graph& graph, const FlatLayout& layout, int ranks, std::int64_t bucket_bytes,
                       std::int64_t scratch_bytes) {
  const ValueId flat = graph.find("gradients");
  const std::int64_t element_bytes = dtype_bytes(graph[flat].spec.dtype);
  Value buffer;
  buffer.name = "reduce.scratch";
  buffer.spec = {{scratch_bytes}, DType::u8};
  buffer.persistent = true;
  buffer.memory = MemoryClass::Communication;
  const ValueId scratch = graph.add_value(std::move(buffer));
  std::vector<std::pair<std::size_t, Node>> inserts;
  int index = 0;
  for (const Bucket& bucket : gradient_buckets(graph, layout, bucket_bytes)) {
    Value part;
    part.name = fmt::format("gradients.bucket{}", index);
    part.spec = {{bucket.elements}, graph[flat].spec.dtype};
    part.persistent = true;
    part.memory = MemoryClass::Gradients;
    part.base = flat;
    part.byte_offset = bucket.offset * element_bytes;
    const ValueId value = graph.add_value(std::move(part));
    inserts.emplace_back(bucket.ready_after,
                         all_reduce_node(graph, value, scratch, fmt::format("reduce.bucket{}", index++), ranks));
  }
  const ValueId loss = graph.find("loss");
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    bool writes_loss = false;
    for_each_access(graph, graph.nodes[n],
                    [&](const MemoryAccess& a) { writes_loss = writes_loss || (a.value == loss && a.writes); });
    if (writes_loss) inserts.emplace_back(n, all_reduce_node(graph, loss, scratch, "reduce.loss", ranks));
  }
  std::stable_sort(inserts.begin(), inserts.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<Node> merged;
  std::size_t next = 0;
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    merged.push_back(graph.nodes[n]);
    for (; next < inserts.size() && inserts[next].first == n; ++next) merged.push_back(inserts[next].second);
  }
  if (graph.update_begin != SIZE_MAX) graph.update_begin += inserts.size();
  graph.nodes = std::move(merged);
}

}  // namespace plimsoll
