#include "parallel/layout_pieces.hpp"

#include <algorithm>

#include "parallel/pipeline.hpp"
#include "parallel/tensor.hpp"
#include "runtime/graph/autodiff.hpp"
#include "runtime/model/flat_layout.hpp"

namespace plimsoll {
namespace {

// Roots on the device that a forward node touches first and a backward node last.
std::int64_t kept_bytes(const Graph& graph) {
  constexpr std::size_t kNever = SIZE_MAX;
  std::vector<std::size_t> first(graph.values.size(), kNever), last(graph.values.size(), 0);
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    for_each_access(graph, graph.nodes[n], [&](const MemoryAccess& a) {
      const auto root = static_cast<std::size_t>(graph.root(a.value));
      first[root] = std::min(first[root], n);
      last[root] = n;
    });
  }
  std::int64_t bytes = 0;
  for (std::size_t v = 0; v < graph.values.size(); ++v) {
    const bool crosses = first[v] < graph.backward_begin && last[v] >= graph.backward_begin;
    if (crosses && !graph.values[v].persistent && !graph.values[v].host) bytes += graph.values[v].spec.bytes();
  }
  return bytes;
}

std::int64_t staging_bytes(const Graph& graph) {
  std::vector<bool> counted(graph.values.size(), true);
  for (const Parameter& p : graph.parameters) {
    for (const ValueId v : {p.value, p.gradient}) counted[static_cast<std::size_t>(graph.root(v))] = false;
  }
  std::int64_t bytes = 0;
  for (std::size_t v = 0; v < graph.values.size(); ++v) {
    const Value& value = graph.values[v];
    if (counted[v] && value.persistent && value.base == kNoValue) bytes += value.spec.bytes();
  }
  return bytes;
}

// Both grow by the same with every layer after the first.
template <class T>
T extend(T one, T two, std::int64_t layers) {
  return one + (two - one) * static_cast<T>(layers - 1);
}

double extend_time(double one, double two, std::int64_t layers) {
  return std::max(0.0, one + (two - one) * static_cast<double>(layers - 1));
}

}  // namespace

PieceProfile PieceProfiles::measure(const PieceKind& kind, std::int64_t layers) const {
  ModelConfig model = problem_.model;
  model.layers = layers;
  ModelShape shape{kind.micro_batch, problem_.sequence, Head::Loss, problem_.dtype, problem_.logits_bytes, 0, true, {}};
  if (kind.pipelined) shape.parts = {{0, layers, kind.embedding, kind.head}};
  Graph graph = build_transformer(model, shape);
  if (kind.tensor > 1) graph = split_over_tensor(graph, model, {kind.tensor, 0, kind.sequence_parallel});
  add_backward(graph, {kind.pipelined, false});
  Graph smallest = graph;
  if (problem_.rewrite) problem_.rewrite(problem_.rewrite_at_need ? smallest : graph);
  if (!problem_.rewrite_at_need) smallest = graph;
  if (kind.pipelined) add_message_buffers(graph, true);
  share_forward_memory(graph);
  share_forward_memory(smallest);
  PieceProfile profile;
  profile.times = time_nodes(graph, costs_, [](std::string_view) { return 1; });
  profile.kept_bytes = kept_bytes(smallest);
  profile.staging_bytes = staging_bytes(graph);
  bool behind = false;
  for (const Parameter& p : graph.parameters) {
    const Value& v = graph[p.value];
    behind = behind || v.layer >= 0;
    (v.layer >= 0                               ? profile.layer_elements
     : behind || (kind.head && !kind.embedding) ? profile.head_elements
                                                : profile.embedding_elements) += v.spec.elements();
  }
  return profile;
}

PieceProfile PieceProfiles::of(const PieceKind& kind, std::int64_t layers) {
  auto found = known_.find(kind);
  if (found == known_.end()) found = known_.emplace(kind, Pair{measure(kind, 1), measure(kind, 2)}).first;
  const auto& [one, two] = found->second;
  PieceProfile p = one;
  for (double NodeTimes::*time : {&NodeTimes::forward_s, &NodeTimes::backward_s, &NodeTimes::weight_grad_s,
                                  &NodeTimes::exposed_forward_s, &NodeTimes::exposed_backward_s})
    p.times.*time = extend_time(one.times.*time, two.times.*time, layers);
  p.kept_bytes = extend(one.kept_bytes, two.kept_bytes, layers);
  p.staging_bytes = extend(one.staging_bytes, two.staging_bytes, layers);
  p.layer_elements = extend(one.layer_elements, two.layer_elements, layers);
  return p;
}

double PieceProfiles::model_flops_per_sequence() {
  if (model_flops_ > 0) return model_flops_;
  double flops[2];
  for (const int layers : {1, 2}) {
    ModelConfig model = problem_.model;
    model.layers = layers;
    Graph graph = build_transformer(
        model, {1, problem_.sequence, Head::Loss, problem_.dtype, problem_.logits_bytes, 0, true, {}});
    add_backward(graph);
    flops[layers - 1] = static_cast<double>(count_flops(graph, {Phase::Forward, Phase::InputGrad, Phase::WeightGrad}));
  }
  return model_flops_ = flops[0] + (flops[1] - flops[0]) * static_cast<double>(problem_.model.layers - 1);
}

}  // namespace plimsoll
