#include "optim/fp8.hpp"

#include <map>

namespace plimsoll {
namespace {

ValueId add_buffer(Graph& graph, std::string_view name, const Shape& shape) {
  Value v;
  v.name = std::string(name);
  v.spec = {shape, DType::f32};
  v.persistent = true;
  v.memory = MemoryClass::Optimizer;
  return graph.named[v.name] = graph.add_value(v);
}

}  // namespace

std::vector<Fp8Linear> fp8_linears(const Graph& graph) {
  std::vector<Fp8Linear> linears;
  std::map<int, int> of_layer;
  // Their input is quantised once each, however many chunks the linear itself is cut into.
  for (const Node& node : graph.nodes) {
    if (node.op != op_id<QuantizeFp8> || node.again) continue;
    linears.push_back({node.layer, of_layer[node.layer]++, node.value[QuantizeFp8::kScaling]});
  }
  return linears;
}

std::optional<std::string> fp8_size_fault(const Graph& graph) {
  for (const Node& node : graph.nodes) {
    if (node.op != op_id<LinearFp8> || node.phase != Phase::Forward) continue;
    const std::int64_t rows = node.specs[LinearFp8::kX].rows(), in = node.specs[LinearFp8::kX].last(),
                       out = node.specs[LinearFp8::kY].last();
    if (rows % kFp8Multiple == 0 && in % kFp8Multiple == 0 && out % kFp8Multiple == 0) continue;
    return fmt::format("'{}' makes {} rows of {} from {} numbers each: on a GPU all three must be multiples of {}",
                       node.label, rows, out, in, kFp8Multiple);
  }
  return std::nullopt;
}

void add_fp8_update(Graph& graph, std::span<const NormAxis> axes, std::int64_t scratch_bytes) {
  const std::vector<Fp8Linear> linears = fp8_linears(graph);
  if (linears.empty()) return;
  const std::int64_t count = std::ssize(linears);
  const ValueId scaling = add_buffer(graph, kFp8Scaling, {count, 2, kFp8Roles});
  const ValueId history = add_buffer(graph, kFp8HistoryName, {count, kFp8Roles, kFp8History});
  for (std::size_t i = 0; i < linears.size(); ++i) {
    Value& part = graph[linears[i].scaling];
    part.base = scaling;
    part.byte_offset = static_cast<std::int64_t>(i) * part.spec.bytes();
  }
  for (const NormAxis& axis : axes) {
    if (axis.ranks == 1) continue;
    // Of the scales, too, which are the same on all of them.
    const ValueId scratch = reduction_scratch(graph, axis.axis, scratch_bytes);
    add_node<AllReduce>(graph, {axis.axis, axis.ranks, {}, true},
                        {{AllReduce::kX, scaling}, {AllReduce::kScratch, scratch}}, "reduce.fp8_scaling", -1);
    graph.nodes.back().phase = Phase::Reduce;
  }
  add_node<UpdateFp8Scales>(graph, {}, {{UpdateFp8Scales::kScaling, scaling}, {UpdateFp8Scales::kHistory, history}},
                            "fp8_scales", -1);
  graph.nodes.back().phase = Phase::Update;
}

}  // namespace plimsoll
