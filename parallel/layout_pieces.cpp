#include "parallel/layout_pieces.hpp"

#include <algorithm>

#include "optim/fp8.hpp"
#include "parallel/pipeline.hpp"
#include "parallel/tensor.hpp"
#include "runtime/graph/autodiff.hpp"
#include "runtime/model/flat_layout.hpp"
#include "runtime/plan/recompute_graph.hpp"

namespace plimsoll {
namespace {

// A pipeline is played with at most this many micro-batches per stage; from there on each adds the time of the slowest
// stage.
constexpr std::int64_t kPlayedPerStage = 3;

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

// What the first half of backward leaves for weight gradients that are an action of their own: gradients, which nothing
// makes again, and, in a graph that is not `rewritten`, what forward kept for them.
std::int64_t held_bytes(const Graph& graph, bool rewritten) {
  std::vector<bool> before(graph.values.size(), false), by_weights = before, again = before;
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    const Node& node = graph.nodes[n];
    const bool replayed = node.again || node.stream == StreamKind::Copy || (rewritten && n < graph.backward_begin);
    std::vector<bool>& touched = node.phase == Phase::WeightGrad ? by_weights : replayed ? again : before;
    for_each_access(graph, node,
                    [&](const MemoryAccess& a) { touched[static_cast<std::size_t>(graph.root(a.value))] = true; });
  }
  std::int64_t bytes = 0;
  for (std::size_t v = 0; v < graph.values.size(); ++v) {
    const Value& value = graph.values[v];
    if (before[v] && by_weights[v] && !again[v] && !value.persistent && !value.host) bytes += value.spec.bytes();
  }
  return bytes;
}

// The most that the backward of a layer has at once, from its first weight gradient on: gradients, and the values of
// forward that a node reads, which are there whether they were kept or made again.
std::int64_t backward_bytes(const Graph& graph, int layer) {
  constexpr std::size_t kNever = SIZE_MAX;
  std::vector<std::size_t> first(graph.values.size(), kNever), last(graph.values.size(), 0);
  const auto visit = [&](std::size_t n, const auto& call) {
    for_each_access(graph, graph.nodes[n],
                    [&](const MemoryAccess& a) { call(static_cast<std::size_t>(graph.root(a.value))); });
  };
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    visit(n, [&](std::size_t root) {
      first[root] = std::min(first[root], n);
      last[root] = n;
    });
  }
  std::int64_t most = 0;
  bool weights = false;
  for (std::size_t n = graph.backward_begin; n < graph.nodes.size(); ++n) {
    if (graph.nodes[n].layer != layer) continue;
    weights = weights || graph.nodes[n].phase == Phase::WeightGrad;
    if (!weights) continue;
    std::vector<bool> there(graph.values.size(), false);
    for (std::size_t v = 0; v < graph.values.size(); ++v)
      there[v] = first[v] != kNever && first[v] >= graph.backward_begin && first[v] <= n && n <= last[v];
    visit(n, [&](std::size_t root) { there[root] = true; });
    std::int64_t bytes = 0;
    for (std::size_t v = 0; v < graph.values.size(); ++v) {
      const Value& value = graph.values[v];
      if (there[v] && !value.persistent && !value.host) bytes += value.spec.bytes();
    }
    most = std::max(most, bytes);
  }
  return most;
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

PieceKind piece_kind(const Layout& l, bool embedding, bool head) {
  return {l.mesh.tensor, l.sequence_parallel, l.micro_batch, l.mesh.pipeline > 1, embedding, head};
}

PieceKind PieceProfiles::kind(const Layout& l, int stage, int chunk) const {
  if (l.mesh.pipeline == 1) return piece_kind(l, true, true);
  const auto index = static_cast<std::size_t>(piece_index(l.mesh.pipeline, stage, chunk));
  return piece_kind(l, index == 0, index + 1 == l.stage_layers.size());
}

std::int64_t PieceProfiles::layers(const Layout& l, int stage, int chunk) const {
  if (l.mesh.pipeline == 1) return problem_.model.layers;
  return l.stage_layers[static_cast<std::size_t>(piece_index(l.mesh.pipeline, stage, chunk))];
}

const Schedule& PieceProfiles::schedule(const Layout& l) {
  const std::int64_t played = std::min(l.micro_batches, kPlayedPerStage * l.mesh.pipeline);
  const std::tuple key{l.schedule, l.mesh.pipeline, played, l.chunks};
  auto found = schedules_.find(key);
  if (found == schedules_.end()) {
    found =
        schedules_.emplace(key, make_schedule(l.schedule, l.mesh.pipeline, static_cast<int>(played), l.chunks)).first;
  }
  return found->second;
}

int PieceProfiles::in_flight(const Layout& l, int stage, int chunk) {
  if (l.mesh.pipeline == 1) return 1;
  return schedule(l).slots[static_cast<std::size_t>(stage)][static_cast<std::size_t>(chunk)];
}

Graph PieceProfiles::differentiated(const PieceKind& kind, std::int64_t layers) const {
  ModelConfig model = problem_.model;
  model.layers = layers;
  ModelShape shape{kind.micro_batch, problem_.sequence, Head::Loss, problem_.dtype, problem_.logits_bytes, 0, true, {},
                   problem_.fp8};
  shape.fused_heads = problem_.fused_heads;
  if (kind.pipelined) shape.parts = {{0, layers, kind.embedding, kind.head}};
  Graph graph = build_transformer(model, shape);
  if (kind.tensor > 1) graph = split_over_tensor(graph, model, {kind.tensor, 0, kind.sequence_parallel});
  add_backward(graph, {kind.pipelined, false});
  return graph;
}

PieceProfile PieceProfiles::measure(const PieceKind& kind, std::int64_t layers) const {
  Graph graph = differentiated(kind, layers);
  Graph smallest = graph;
  if (problem_.rewrite) problem_.rewrite(problem_.rewrite_at_need ? smallest : graph);
  if (!problem_.rewrite_at_need) smallest = graph;
  if (kind.pipelined) add_message_buffers(graph, true);
  PieceProfile profile;
  profile.held_bytes = held_bytes(graph, static_cast<bool>(problem_.rewrite));
  share_forward_memory(graph);
  share_forward_memory(smallest);
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
  p.outside_bytes = std::max<std::int64_t>(0, one.kept_bytes - (two.kept_bytes - one.kept_bytes));
  p.held_bytes = extend(one.held_bytes, two.held_bytes, layers);
  p.staging_bytes = extend(one.staging_bytes, two.staging_bytes, layers);
  p.layer_elements = extend(one.layer_elements, two.layer_elements, layers);
  return p;
}

PieceProfiles::Trades PieceProfiles::trades(const Layout& l, int stage_index, int chunk) {
  // The first and the last layer may differ from those between them.
  const std::int64_t all = layers(l, stage_index, chunk), shown = std::min<std::int64_t>(all, 3);
  const PieceKind piece = kind(l, stage_index, chunk);
  const auto [entry, is_new] = trades_.try_emplace({piece, shown});
  LayerTrades& known = entry->second;
  if (is_new) {
    const Graph graph = differentiated(piece, shown);
    const RecomputeStage stage = graph_stage(graph, costs_, {}).stage;
    std::vector<RecomputeTrade> of_kind;
    for (const LayerKind& k : stage.kinds) of_kind.push_back(problem_.offload ? offload_trade(k) : recompute_trade(k));
    for (const int k : stage.layers) known.layers.push_back(of_kind[static_cast<std::size_t>(k)]);
    known.backward_bytes = backward_bytes(graph, static_cast<int>(shown - 1));
  }
  Trades trades{{}, known.backward_bytes};
  for (const RecomputeTrade& trade : known.layers)
    trades.layers.push_back({&trade, 1, in_flight(l, stage_index, chunk)});
  if (shown == 3) trades.layers[1].layers = all - 2;
  return trades;
}

std::optional<std::string> PieceProfiles::fp8_fault(const Layout& l) {
  PieceKind layer = piece_kind(l, false, false);
  layer.pipelined = true;
  const auto [found, is_new] = fp8_faults_.try_emplace(layer);
  if (is_new) found->second = fp8_size_fault(differentiated(layer, 1));
  return found->second;
}

double PieceProfiles::model_flops_per_sequence() {
  if (model_flops_ > 0) return model_flops_;
  double flops[2] = {};
  for (const int layers : {1, 2}) {
    ModelConfig model = problem_.model;
    model.layers = layers;
    Graph graph = build_transformer(
        model, {1, problem_.sequence, Head::Loss, problem_.dtype, problem_.logits_bytes, 0, true, {}, problem_.fp8});
    add_backward(graph);
    flops[layers - 1] = static_cast<double>(count_flops(graph, {Phase::Forward, Phase::InputGrad, Phase::WeightGrad}));
  }
  return model_flops_ = flops[0] + (flops[1] - flops[0]) * static_cast<double>(problem_.model.layers - 1);
}

}  // namespace plimsoll
