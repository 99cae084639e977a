#include "optim/update.hpp"

#include <algorithm>

namespace plimsoll {
namespace {

// What this rank adds to the norm: of each parameter the elements that it owns, where they lie in "gradients".
SquareSums::Attrs norm_segments(const Graph& graph, const FlatLayout& layout, const UpdateOptions& options) {
  SquareSums::Attrs attrs;
  const bool all = options.places.empty();
  attrs.tensors = all ? static_cast<std::int64_t>(graph.parameters.size()) : options.tensors;
  const bool whole = graph[graph.find("gradients")].spec.elements() == layout.elements;
  const auto add = [&](std::size_t p, std::int64_t first, std::int64_t count) {
    for_each_shard_range(layout, options.shard_rank, first, count, [&](const ShardRange& range) {
      attrs.segments.push_back(
          {whole ? range.flat_first : range.shard_first, range.count, all ? static_cast<int>(p) : options.places[p]});
    });
  };
  for (std::size_t p = 0; p < graph.parameters.size(); ++p) {
    const Parameter& parameter = graph.parameters[p];
    const auto owned = [](const ParameterPart& part) { return part.owned; };
    if (std::all_of(parameter.parts.begin(), parameter.parts.end(), owned)) {
      add(p, layout.offset[p], graph[parameter.value].spec.elements());
      continue;
    }
    const std::int64_t columns = graph[parameter.value].spec.elements() / graph[parameter.value].spec.shape[0];
    for (const ParameterPart& part : parameter.parts) {
      if (part.owned) add(p, layout.offset[p] + part.at_row * columns, part.rows * columns);
    }
  }
  return attrs;
}

// The norm of the gradients of all ranks.
ValueId add_norm(Graph& graph, const FlatLayout& layout, const UpdateOptions& options) {
  const ValueId sums =
      add_node<SquareSums>(graph, norm_segments(graph, layout, options),
                           {{SquareSums::kGradients, graph.find("gradients")}}, "square_sums", -1)[SquareSums::kSums];
  graph.nodes.back().phase = Phase::Update;
  for (const NormAxis& axis : options.norm_axes) {
    if (axis.ranks == 1) continue;
    const ValueId scratch = reduction_scratch(graph, axis.axis, options.scratch_bytes);
    add_node<AllReduce>(graph, {axis.axis, axis.ranks}, {{AllReduce::kX, sums}, {AllReduce::kScratch, scratch}},
                        "reduce.norm", -1);
    graph.nodes.back().phase = Phase::Reduce;
  }
  const ValueId norm =
      add_node<GlobalNorm>(graph, {}, {{GlobalNorm::kSums, sums}}, "global_norm", -1)[GlobalNorm::kNorm];
  graph.nodes.back().phase = Phase::Update;
  return norm;
}

// What one optimizer step updates: a unit, or all of them.
struct Updated {
  std::string label;  // of what it is
  int layer = -1;
  std::int64_t elements = 0;  // of this rank's shard
  std::vector<ElementRange> decays;
  std::vector<RoundSegment> segments;  // where its elements belong in the tensors of the model, for stochastic rounding
};

void add_step(Graph& graph, const Updated& updated, const OptimizerConfig& o, ValueId gradients, ValueId parameters,
              ValueId rounded, ValueId norm, const std::vector<ValueId>& moments) {
  if (o.name == OptimizerName::AdamW) {
    add_node<AdamW>(graph, {o.betas[0], o.betas[1], o.eps, o.weight_decay, o.clip, updated.decays},
                    {{AdamW::kGradients, gradients},
                     {AdamW::kNorm, norm},
                     {AdamW::kParameters, parameters},
                     {AdamW::kFirst, moments[0]},
                     {AdamW::kSecond, moments[1]},
                     {AdamW::kRounded, rounded}},
                    "adamw" + updated.label, updated.layer);
  } else {
    add_node<Sgd>(graph, {o.momentum, o.weight_decay, o.clip, false, updated.decays},
                  {{Sgd::kGradients, gradients},
                   {Sgd::kNorm, norm},
                   {Sgd::kParameters, parameters},
                   {Sgd::kMomentum, moments.empty() ? kNoValue : moments[0]},
                   {Sgd::kRounded, rounded}},
                  "sgd" + updated.label, updated.layer);
  }
  graph.nodes.back().phase = Phase::Update;
}

void add_segments(const Graph& graph, const FlatLayout& layout, std::size_t u, int shard_rank, Updated& updated) {
  const Unit& unit = layout.units[u];
  const std::int64_t begin = unit.offset + shard_range(layout, unit, shard_rank).first;
  for (std::size_t p = 0; p < graph.parameters.size(); ++p) {
    if (layout.unit[p] != static_cast<int>(u)) continue;
    const Shape& local = graph[graph.parameters[p].value].spec.shape;
    RoundSegment s;
    s.columns = local.elements() / local[0];
    for (const ParameterPart& part : graph.parameters[p].parts) {
      s.at_row = part.at_row, s.at_column = part.at_column, s.rows = part.rows, s.part_columns = part.columns;
      s.row = part.row, s.column = part.column;
      s.tensor_rows = part.shape[0], s.tensor_columns = part.shape.elements() / part.shape[0];
      s.stream = rounding_stream(part.name);
      const std::int64_t flat = layout.offset[p] + part.at_row * s.columns;
      for_each_shard_range(layout, shard_rank, flat, part.rows * s.columns, [&](const ShardRange& range) {
        s.offset = updated.elements + range.flat_first - begin;
        s.elements = range.count;
        s.first = range.flat_first - layout.offset[p];
        updated.segments.push_back(s);
      });
    }
  }
}

// The next unit of what is updated together.
void add_unit(const Graph& graph, const FlatLayout& layout, std::size_t u, int shard_rank, bool stochastic,
              Updated& updated) {
  const Unit& unit = layout.units[u];
  const ElementRange mine = shard_range(layout, unit, shard_rank);
  const std::int64_t decays = std::clamp<std::int64_t>(unit.decay_elements - mine.first, 0, mine.count);
  std::vector<ElementRange>& all = updated.decays;
  if (decays > 0 && !all.empty() && all.back().first + all.back().count == updated.elements) {
    all.back().count += decays;
  } else if (decays > 0) {
    all.push_back({updated.elements, decays});
  }
  if (stochastic) add_segments(graph, layout, u, shard_rank, updated);
  updated.elements += mine.count;
}

}  // namespace

std::vector<Moment> optimizer_moments(const OptimizerConfig& optimizer) {
  if (optimizer.name == OptimizerName::Sgd && optimizer.momentum == 0) return {};
  if (optimizer.name == OptimizerName::Sgd) return {{"optimizer.momentum", "momentum_buffer"}};
  return {{"optimizer.first", "exp_avg"}, {"optimizer.second", "exp_avg_sq"}};
}

StateBytes state_bytes(DType dtype, const OptimizerConfig& optimizer) {
  const std::int64_t own = dtype_bytes(dtype), wide = dtype_bytes(wide_dtype(dtype));
  const auto moments = static_cast<std::int64_t>(optimizer_moments(optimizer).size());
  return {own, wide, wide * moments + (own < wide ? wide : 0)};
}

void add_update(Graph& graph, const FlatLayout& layout, const UpdateOptions& options) {
  graph.update_begin = graph.nodes.size();
  const ValueId norm = add_norm(graph, layout, options);
  const std::vector<Moment> names = optimizer_moments(options.optimizer);
  const DType wide = graph[graph.find("gradients")].spec.dtype;
  const DType computes = graph[graph.find("parameters")].spec.dtype;
  const bool rounds = computes != wide, stochastic = options.optimizer.rounding == WeightRounding::Stochastic;
  require(!stochastic || computes == DType::bf16, ErrorKind::Internal, "stochastic rounding to {}",
          dtype_name(computes));
  const auto add_buffer = [&](std::string_view name) {
    Value v;
    v.name = std::string(name);
    v.spec = {{shard_elements(layout, options.shard_rank)}, wide};
    v.persistent = true;
    v.memory = MemoryClass::Optimizer;
    graph.named[v.name] = graph.add_value(v);
  };
  if (rounds) add_buffer(kMasterWeights);
  for (const Moment& m : names) add_buffer(m.value);
  Updated updated;
  for (std::size_t u = 0; u < layout.units.size(); ++u) {
    add_unit(graph, layout, u, options.shard_rank, stochastic, updated);
    if (!options.by_unit && u + 1 < layout.units.size()) continue;
    if (options.by_unit) updated.label = "." + layout.units[u].name, updated.layer = layout.units[u].layer;
    const auto part = [&](std::string_view buffer) {
      return options.by_unit ? unit_part(graph, layout, buffer, u, options.shard_rank) : graph.find(buffer);
    };
    std::vector<ValueId> moments;
    for (const Moment& m : names) moments.push_back(part(m.value));
    const ValueId parameters = part("parameters");
    const ValueId weights = rounds ? part(kMasterWeights) : parameters;
    add_step(graph, updated, options.optimizer, part("gradients"), weights,
             rounds && !stochastic ? parameters : kNoValue, norm, moments);
    if (stochastic) {
      add_node<RoundWeights>(graph, {std::move(updated.segments)},
                             {{RoundWeights::kWeights, weights}, {RoundWeights::kRounded, parameters}},
                             "round_weights" + updated.label, updated.layer);
      graph.nodes.back().phase = Phase::Update;
    }
    updated = {};
  }
}

}  // namespace plimsoll
