#include "parallel/pipeline.hpp"

#include <algorithm>
#include <map>

#include "runtime/graph/row_chunks.hpp"
#include "runtime/plan/stages.hpp"

namespace plimsoll {
namespace {

void add_all_reduce(Graph& graph, std::size_t at, const char* axis, int ranks, ValueId x, std::int64_t scratch_bytes,
                    std::string label, std::uint8_t when) {
  Node node;
  node.op = op_id<AllReduce>;
  node.phase = Phase::Reduce;
  node.attrs = Attrs(std::in_place_index<op_id<AllReduce>>, AllReduce::Attrs{axis, ranks});
  node.label = std::move(label);
  node.stream = stream_of(axis);
  node.when = when;
  node.value[AllReduce::kX] = x;
  node.value[AllReduce::kScratch] = reduction_scratch(graph, axis, scratch_bytes);
  for (const int slot : {AllReduce::kX, AllReduce::kScratch})
    node.specs.set(slot, graph[node.value[static_cast<std::size_t>(slot)]].spec);
  if (at > 0 && at < graph.nodes.size() + 1) node.late = graph.nodes[at - 1].late;
  graph.nodes.insert(graph.nodes.begin() + static_cast<std::ptrdiff_t>(at), std::move(node));
}

Value persistent_value(std::string name, TensorSpec spec, MemoryClass memory) {
  Value v;
  v.name = std::move(name);
  v.spec = spec;
  v.persistent = true;
  v.memory = memory;
  return v;
}

}  // namespace

std::vector<int> pipeline_cuts(const ModelConfig& model, const ModelShape& shape, const PipelineParallel& pipeline,
                               std::span<const std::int64_t> layers_per_piece) {
  const int pieces = pipeline.stages * pipeline.chunks;
  if (!layers_per_piece.empty()) return cut_layers_as_listed(layers_per_piece, static_cast<int>(model.layers), pieces);
  ModelShape whole = shape;
  whole.parts.clear();
  std::vector<double> layers(static_cast<std::size_t>(model.layers), 0);
  double first = 0, last = 0;
  bool behind = false;
  for (const Node& node : build_transformer(model, whole).nodes) {
    const auto flops = static_cast<double>(op_info(node.op).flops(node.attrs, node.specs, Phase::Forward));
    behind = behind || node.layer >= 0;
    (node.layer >= 0 ? layers[static_cast<std::size_t>(node.layer)] : behind ? last : first) += flops;
  }
  return cut_layers(layers, first, last, pieces);
}

std::vector<ModelPart> stage_parts(const ModelConfig& model, std::span<const int> cuts,
                                   const PipelineParallel& pipeline) {
  std::vector<ModelPart> parts;
  for (int chunk = 0; chunk < pipeline.chunks; ++chunk) {
    const auto piece = static_cast<std::size_t>(piece_index(pipeline.stages, pipeline.stage, chunk));
    const bool is_last = piece + 1 == cuts.size();
    parts.push_back({cuts[piece], is_last ? model.layers : cuts[piece + 1], piece == 0, is_last});
  }
  return parts;
}

void add_message_buffers(Graph& graph, bool training) {
  const auto add = [&](const char* name, ValueId like) {
    if (like == kNoValue || graph.named.contains(name)) return;
    TensorSpec spec = graph[like].spec;
    spec.shape = {kMessageBuffers, spec.elements()};
    graph.named[name] = graph.add_value(persistent_value(name, spec, MemoryClass::Communication));
  };
  for (const PieceEnds& piece : graph.pieces) {
    add("pipeline.receive.output", piece.input);
    add("pipeline.send.output", piece.output);
    if (!training) continue;
    add("pipeline.receive.gradient", piece.output);
    add("pipeline.send.gradient", piece.input);
  }
}

std::optional<std::pair<std::size_t, std::size_t>> output_product(const Graph& graph, int chunk) {
  const ValueId output = graph.pieces[static_cast<std::size_t>(chunk)].output;
  if (output == kNoValue) return std::nullopt;
  const auto maker = [&](ValueId value, std::initializer_list<std::pair<OpId, std::size_t>> ops) {
    const auto found = std::find_if(graph.nodes.begin(), graph.nodes.end(), [&](const Node& node) {
      return node.phase == Phase::Forward && !node.again &&
             std::any_of(ops.begin(), ops.end(), [&](const std::pair<OpId, std::size_t>& op) {
               return node.op == op.first && node.value[op.second] == value;
             });
    });
    require(found != graph.nodes.end(), ErrorKind::Internal, "'{}' is not made by {}", graph[value].name,
            op_info(ops.begin()->first).name);
    return static_cast<std::size_t>(found - graph.nodes.begin());
  };
  const std::size_t sum = maker(output, {{op_id<Add>, Add::kY}});
  const ValueId added = graph.nodes[sum].value[Add::kB];
  return std::pair(maker(added, {{op_id<Linear>, Linear::kY}, {op_id<LinearFp8>, LinearFp8::kY}}), sum);
}

void cut_outputs(Graph& graph, int parts) {
  graph.message_parts = parts;
  if (parts == 1) return;
  RowChunks rows(graph, parts);
  std::map<std::size_t, std::size_t> sum_of;  // by product
  for (int chunk = 0; chunk < static_cast<int>(graph.pieces.size()); ++chunk) {
    if (const auto nodes = output_product(graph, chunk)) sum_of[nodes->first] = nodes->second;
  }
  std::vector<Node> nodes;
  std::swap(nodes, graph.nodes);
  const std::size_t backward = graph.backward_begin, update = graph.update_begin;
  std::vector<bool> gone(nodes.size(), false);
  for (std::size_t n = 0; n <= nodes.size(); ++n) {
    if (n == backward) graph.backward_begin = graph.nodes.size();
    if (n == update) graph.update_begin = graph.nodes.size();
    if (n == nodes.size()) break;
    const auto cut = sum_of.find(n);
    if (cut == sum_of.end()) {
      if (!gone[n]) graph.nodes.push_back(std::move(nodes[n]));
      continue;
    }
    gone[cut->second] = true;
    for (int i = 0; i < parts; ++i) {
      graph.nodes.push_back(rows.chunk_of(nodes[n], false, i));
      graph.nodes.push_back(rows.chunk_of(nodes[cut->second], false, i));
    }
  }
}

std::optional<std::string> pipeline_chunks_fault(const ModelConfig& model, std::int64_t tensor, std::int64_t rows,
                                                 std::int64_t parts) {
  if (parts == 1) return std::nullopt;
  if (tensor > 1) return "a stage that is split over the tensor axis ends with a sum over ranks: 1 with tensor";
  if (model.dropout > 0) return "a stage ends with dropout, which is not cut into rows: 1 with model.dropout";
  if (rows % parts != 0) return fmt::format("{} parts do not divide the {} tokens of a micro-batch", parts, rows);
  return std::nullopt;
}

void keep_inputs_in_slots(Graph& graph) {
  for (const char* name : {"tokens", "targets"}) {
    if (const auto found = graph.named.find(name); found != graph.named.end()) graph[found->second].persistent = false;
  }
}

namespace {

bool has_tied_copy(const ModelConfig& model, const PipelineParallel& pipeline) {
  return model.tied && (pipeline.first() || pipeline.last());
}

std::size_t embedding_of(const Graph& graph) {
  const auto embedding = std::find_if(graph.parameters.begin(), graph.parameters.end(),
                                      [&](const Parameter& p) { return graph[p.value].name == "embedding"; });
  require(embedding != graph.parameters.end(), ErrorKind::Internal, "a tied model without an embedding");
  return static_cast<std::size_t>(embedding - graph.parameters.begin());
}

void sum_tied(Graph& graph, ValueId gradient, std::int64_t scratch_bytes) {
  add_all_reduce(graph, graph.update_begin, "embedding", 2, gradient, scratch_bytes, "reduce.embedding",
                 kFinalVariants);
  ++graph.update_begin;
}

}  // namespace

void sum_tied_gradients(Graph& graph, const ModelConfig& model, const PipelineParallel& pipeline,
                        std::int64_t scratch_bytes) {
  if (!has_tied_copy(model, pipeline)) return;
  sum_tied(graph, graph.parameters[embedding_of(graph)].gradient, scratch_bytes);
}

void sum_tied_shards(Graph& graph, const ModelConfig& model, const PipelineParallel& pipeline, const FlatLayout& layout,
                     int shard_rank, std::int64_t scratch_bytes) {
  if (!has_tied_copy(model, pipeline)) return;
  const std::size_t embedding = embedding_of(graph);
  const int unit = layout.unit[embedding];
  require(std::count(layout.unit.begin(), layout.unit.end(), unit) == 1, ErrorKind::Internal,
          "the tied embedding shares its unit, so its shards differ at the two ends of the pipeline");
  sum_tied(graph, unit_part(graph, layout, "gradients", static_cast<std::size_t>(unit), shard_rank), scratch_bytes);
}

void share_loss(Graph& graph, const PipelineParallel& pipeline, std::int64_t scratch_bytes) {
  const TensorSpec pair{{2}, DType::f64};
  // Zero, as persistent memory is at first, and never written, where the head is not.
  const ValueId mine =
      pipeline.last() ? graph.find("loss") : graph.add_value(persistent_value("loss.zero", pair, MemoryClass::Staging));
  const ValueId all = graph.add_value(persistent_value("loss.shared", pair, MemoryClass::Staging));
  Node copy;
  copy.op = op_id<Scale>;
  copy.attrs = Attrs(std::in_place_index<op_id<Scale>>, Scale::Attrs{1.0});
  copy.label = "loss.shared";
  copy.value[Scale::kX] = mine;
  copy.value[Scale::kY] = all;
  copy.specs.set(Scale::kX, pair);
  copy.specs.set(Scale::kY, pair);
  graph.nodes.push_back(std::move(copy));
  add_all_reduce(graph, graph.nodes.size(), "pipeline", pipeline.stages, all, scratch_bytes, "reduce.loss.shared",
                 kEveryVariant);
  graph.named["loss"] = all;
}

std::vector<int> places_in_model(const Graph& graph, const Graph& whole) {
  std::vector<int> places;
  for (const Parameter& p : graph.parameters) {
    const auto found = std::find_if(whole.parameters.begin(), whole.parameters.end(), [&](const Parameter& other) {
      return whole[other.value].name == graph[p.value].name;
    });
    require(found != whole.parameters.end(), ErrorKind::Internal, "the model has no '{}'", graph[p.value].name);
    places.push_back(static_cast<int>(found - whole.parameters.begin()));
  }
  return places;
}

}  // namespace plimsoll
