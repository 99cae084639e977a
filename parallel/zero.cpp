#include "parallel/zero.hpp"

#include <algorithm>

namespace plimsoll {

std::string units_name(const FlatLayout& layout, const UnitRange& units) {
  const std::string& first = layout.units[units.first].name;
  return units.one() ? first : fmt::format("{}-{}", first, layout.units[units.last].name);
}

int layer_of(const FlatLayout& layout, const UnitRange& units) {
  return units.one() ? layout.units[units.first].layer : -1;
}

std::int64_t elements_of(const FlatLayout& layout, const UnitRange& units) {
  const Unit& last = layout.units[units.last];
  return last.offset + last.elements - layout.units[units.first].offset;
}

std::vector<JoinedPart> parts_of(const FlatLayout& layout, const UnitRange& units) {
  std::vector<JoinedPart> parts;
  for (std::size_t u = units.first; u <= units.last; ++u)
    parts.push_back({layout.units[u].elements, layout.units[u].cuts});
  return parts;
}

DimAttrs over_shards(const DataParallel& data, const Unit& unit) {
  return {"shard", data.shards, 0, unit.cuts, data.shard_rank};
}

ValueId range_of(Graph& graph, ValueId flat, std::int64_t first, std::int64_t count, std::string name) {
  Value part = graph[flat];
  part.name = std::move(name);
  part.spec = {{count}, graph[flat].spec.dtype};
  part.base = flat;
  part.byte_offset = first * dtype_bytes(part.spec.dtype);
  return graph.add_value(std::move(part));
}

void lay_over(Graph& graph, ValueId value, ValueId flat, std::int64_t first) {
  Value& v = graph[value];
  v.persistent = graph[flat].persistent;
  v.memory = graph[flat].memory;
  v.base = flat;
  v.byte_offset = first * dtype_bytes(v.spec.dtype);
}

ValueId shards_of(Graph& graph, const FlatLayout& layout, std::string_view buffer, const UnitRange& units,
                  int shard_rank) {
  const ValueId mine = unit_part(graph, layout, buffer, units.first, shard_rank);
  for (std::size_t u = units.first + 1; u <= units.last; ++u)
    graph[mine].spec.shape = {graph[mine].spec.elements() + shard_range(layout, layout.units[u], shard_rank).count};
  return mine;
}

bool run_together(const Graph& graph, std::size_t a, std::size_t b) {
  const Node &first = graph.nodes[a], &second = graph.nodes[b];
  return graph.section(a) == graph.section(b) && first.chunk == second.chunk && first.late == second.late;
}

Node all_reduce(Graph& graph, const char* axis, int ranks, ValueId x, std::int64_t scratch_bytes, std::string label,
                std::vector<ElementRange> ranges) {
  const ValueId scratch = reduction_scratch(graph, axis, scratch_bytes);
  return communication_node<AllReduce>(graph, {axis, ranks, std::move(ranges)}, Phase::Reduce,
                                       {{AllReduce::kX, x}, {AllReduce::kScratch, scratch}}, std::move(label), -1,
                                       kFinalVariants);
}

namespace {

constexpr std::uint8_t kBeginningVariants =
    static_cast<std::uint8_t>(Variant::First) | static_cast<std::uint8_t>(Variant::Only);

// Do two units' gradients come and go in the same action of a pipeline? `nodes`: the first and the last to write those
// of each.
bool made_together(const Graph& graph, const std::pair<std::size_t, std::size_t>& a,
                   const std::pair<std::size_t, std::size_t>& b) {
  return run_together(graph, a.second, b.second) && graph.nodes[a.first].chunk == graph.nodes[b.first].chunk &&
         graph.nodes[a.first].chunk == graph.nodes[a.second].chunk;
}

// The sum of the gradients of units, `whole`, into this rank's shards: `to`, or, kNoValue, at their places in `whole`.
Node scatter_units(Graph& graph, const FlatLayout& layout, const DataParallel& data, const UnitRange& units,
                   ValueId whole, ValueId to, std::uint8_t when) {
  const std::string label = "reduce." + units_name(layout, units);
  if (!units.one()) {
    ReduceUnits::Attrs attrs{"shard", data.shards, data.shard_rank, parts_of(layout, units), to == kNoValue};
    if (to == kNoValue)
      return communication_node<ReduceUnits>(graph, std::move(attrs), Phase::Reduce, {{ReduceUnits::kX, whole}}, label,
                                             -1, when);
    return communication_node<ReduceUnits>(graph, std::move(attrs), Phase::Reduce,
                                           {{ReduceUnits::kX, whole}, {ReduceUnits::kY, to}}, label, -1, when);
  }
  const Unit& unit = layout.units[units.first];
  if (to == kNoValue) {
    const ElementRange mine = shard_range(layout, unit, data.shard_rank);
    to = range_of(graph, whole, mine.first, mine.count, fmt::format("grad.{}.mine", unit.name));
  }
  return communication_node<ReduceScatter>(graph, over_shards(data, unit), Phase::Forward,
                                           {{ReduceScatter::kX, whole}, {ReduceScatter::kY, to}}, label, unit.layer,
                                           when);
}

// Where this rank's shards lie in units that are whole, one after another.
std::vector<ElementRange> places_of(const FlatLayout& layout, const UnitRange& units, int shard_rank) {
  std::vector<ElementRange> places;
  for (std::size_t u = units.first; u <= units.last; ++u) {
    const ElementRange mine = shard_range(layout, layout.units[u], shard_rank);
    places.push_back({layout.units[u].offset - layout.units[units.first].offset + mine.first, mine.count});
  }
  return places;
}

// Sums the gradients of units into this rank's shards of them.
void reduce_units(Graph& graph, const FlatLayout& layout, const DataParallel& data, const UnitRange& units,
                  ValueId whole, std::int64_t scratch_bytes, std::size_t ready, Inserts& inserts) {
  const std::vector<ElementRange> places = places_of(layout, units, data.shard_rank);
  const auto add = [&](Node node) { inserts.push_back({ready, false, std::move(node)}); };
  const auto replicate = [&](ValueId x, std::vector<ElementRange> ranges) {
    if (data.replicas() == 1) return;
    add(all_reduce(graph, "replica", data.replicas(), x, scratch_bytes, "replicate." + units_name(layout, units),
                   std::move(ranges)));
  };
  if (data.zero == 1) {
    add(scatter_units(graph, layout, data, units, whole, kNoValue, kFinalVariants));
    if (!units.one()) return replicate(whole, places);
    return replicate(range_of(graph, whole, places[0].first, places[0].count,
                              fmt::format("grad.{}.mine", units_name(layout, units))),
                     {});
  }
  const ValueId shards = shards_of(graph, layout, "gradients", units, data.shard_rank);
  add(scatter_units(graph, layout, data, units, whole, shards, kBeginningVariants));
  const auto later = static_cast<std::uint8_t>(kEveryVariant & ~kBeginningVariants);
  add(scatter_units(graph, layout, data, units, whole, kNoValue, later));
  for (std::size_t u = units.first; u <= units.last; ++u) {
    const ElementRange& place = places[u - units.first];
    const Unit& unit = layout.units[u];
    const ValueId shard = unit_part(graph, layout, "gradients", u, data.shard_rank);
    const ValueId sum = range_of(graph, whole, place.first, place.count, fmt::format("grad.{}.mine", unit.name));
    add(communication_node<Add>(graph, {}, Phase::Forward, {{Add::kA, shard}, {Add::kB, sum}, {Add::kY, shard}},
                                "accumulate." + unit.name, unit.layer, later));
  }
  replicate(shards, {});
}

// Elements of a unit that no parameter has: between parameters, which begin on cache lines, and behind them.
struct Gap {
  std::int64_t first, elements;  // first: in the unit
};
std::vector<Gap> gaps_of(const Graph& graph, const FlatLayout& layout, std::size_t unit) {
  std::vector<Gap> parameters;
  for (std::size_t p = 0; p < graph.parameters.size(); ++p) {
    if (layout.unit[p] != static_cast<int>(unit)) continue;
    parameters.push_back(
        {layout.offset[p] - layout.units[unit].offset, graph[graph.parameters[p].gradient].spec.elements()});
  }
  std::sort(parameters.begin(), parameters.end(), [](const Gap& a, const Gap& b) { return a.first < b.first; });
  parameters.push_back({layout.units[unit].elements, 0});
  std::vector<Gap> gaps;
  std::int64_t end = 0;
  for (const Gap& p : parameters) {
    if (p.first > end) gaps.push_back({end, p.first - end});
    end = p.first + p.elements;
  }
  return gaps;
}

// The gradients of units that are summed at once, whole: a part of the flat buffer, or memory of their own.
struct UnitGradients {
  UnitRange units;
  ValueId whole;
};

// Gaps are sent with the gradients of their unit, so they must be written like them: clears them where the gradients of
// a micro-batch begin.
void clear_gaps(Graph& graph, const FlatLayout& layout, const std::vector<UnitGradients>& buckets, Inserts& inserts) {
  std::vector<std::size_t> first_write(graph.values.size(), graph.nodes.size());  // by root
  for (std::size_t n = graph.nodes.size(); n-- > 0;) {
    for_each_access(graph, graph.nodes[n], [&](const MemoryAccess& a) {
      if (a.writes) first_write[static_cast<std::size_t>(graph.root(a.value))] = n;
    });
  }
  for (const auto& [units, whole] : buckets) {
    const std::size_t first = first_write[static_cast<std::size_t>(whole)];
    if (first == graph.nodes.size()) continue;
    for (std::size_t u = units.first; u <= units.last; ++u) {
      const Unit& unit = layout.units[u];
      const std::int64_t from = unit.offset - layout.units[units.first].offset;
      for (const Gap& gap : gaps_of(graph, layout, u)) {
        const ValueId x =
            range_of(graph, whole, from + gap.first, gap.elements, fmt::format("grad.{}.gap{}", unit.name, gap.first));
        Node node = communication_node<Clear>(graph, {gap.elements, graph[x].spec.dtype}, Phase::Reduce,
                                              {{Clear::kX, x}}, "clear." + unit.name, unit.layer, kEveryVariant);
        node.stream = StreamKind::Compute;
        inserts.push_back({first, true, std::move(node)});
      }
    }
  }
}

// ZeRO-2: gradients that are summed at once live from the first to the last node that writes them, and their reduction.
std::vector<UnitGradients> transient_gradients(Graph& graph, const FlatLayout& layout,
                                               const std::vector<UnitRange>& buckets) {
  std::vector<UnitGradients> gradients;
  std::vector<std::size_t> bucket_of(layout.units.size(), 0);
  for (const UnitRange& units : buckets) {
    Value v;
    v.name = "grad." + units_name(layout, units);
    v.spec = {{elements_of(layout, units)}, gradient_dtype(graph)};
    v.memory = MemoryClass::Gradients;
    v.layer = layer_of(layout, units);
    for (std::size_t u = units.first; u <= units.last; ++u) bucket_of[u] = gradients.size();
    gradients.push_back({units, graph.add_value(std::move(v))});
  }
  for (std::size_t p = 0; p < graph.parameters.size(); ++p) {
    const auto& [units, whole] = gradients[bucket_of[static_cast<std::size_t>(layout.unit[p])]];
    lay_over(graph, graph.parameters[p].gradient, whole, layout.offset[p] - layout.units[units.first].offset);
  }
  std::vector<bool> is_gradient(graph.values.size(), false);
  for (const Parameter& p : graph.parameters) is_gradient[static_cast<std::size_t>(p.gradient)] = true;
  for (Node& node : graph.nodes) {
    for (std::size_t s = 0; s < static_cast<std::size_t>(kMaxSlots); ++s) {
      const bool mine = node.grad[s] != kNoValue && is_gradient[static_cast<std::size_t>(node.grad[s])];
      if (mine && node.accumulate[s] == Accumulate::AfterFirst) node.accumulate[s] = Accumulate::Never;
    }
  }
  return gradients;
}

// Units that are summed at once, as DataParallel::bucket_ends has it.
std::vector<UnitRange> unit_buckets(const FlatLayout& layout, const DataParallel& data) {
  std::vector<UnitRange> buckets;
  std::size_t unit = 0;
  for (const std::size_t end : data.bucket_ends) {
    require(unit < end && end <= layout.units.size(), ErrorKind::Internal, "a bucket of units {} to {} of {}", unit,
            end, layout.units.size());
    buckets.push_back({unit, end - 1});
    unit = end;
  }
  for (; data.bucket_ends.empty() && unit < layout.units.size(); ++unit) buckets.push_back({unit, unit});
  require(unit == layout.units.size(), ErrorKind::Internal, "buckets of {} units, there are {}", unit,
          layout.units.size());
  return buckets;
}

}  // namespace

std::vector<GradientRange> unit_items(const Graph& graph, const FlatLayout& layout, int zero) {
  std::vector<std::size_t> first_write(graph.values.size(), graph.nodes.size());
  for (std::size_t n = graph.nodes.size(); n-- > 0;) {
    for_each_access(graph, graph.nodes[n], [&](const MemoryAccess& a) {
      if (!a.writes) return;
      first_write[static_cast<std::size_t>(a.value)] = n;
      if (const ValueId base = graph[a.value].base; base != kNoValue) first_write[static_cast<std::size_t>(base)] = n;
    });
  }
  const std::vector<std::size_t> last_write = last_writes(graph);
  std::vector<std::pair<std::size_t, std::size_t>> nodes(layout.units.size(), {graph.nodes.size(), 0});
  for (std::size_t p = 0; p < graph.parameters.size(); ++p) {
    auto& [first, last] = nodes[static_cast<std::size_t>(layout.unit[p])];
    const auto gradient = static_cast<std::size_t>(graph.parameters[p].gradient);
    require(first_write[gradient] < graph.nodes.size(), ErrorKind::Internal, "nothing makes the gradient of '{}'",
            graph[graph.parameters[p].value].name);
    first = std::min(first, first_write[gradient]);
    last = std::max(last, last_write[gradient]);
  }
  std::vector<GradientRange> items;
  for (std::size_t u = 0; u < layout.units.size(); ++u) {
    const bool joins = u > 0 && (zero == 1 || made_together(graph, nodes[u - 1], nodes[u]));
    items.push_back({layout.units[u].offset, layout.units[u].elements, nodes[u].second, joins});
  }
  return items;
}

void place_unit_gradients(Graph& graph, const FlatLayout& layout, const DataParallel& data, ValueId flat,
                          std::int64_t scratch_bytes, Inserts& inserts) {
  const std::vector<GradientRange> items = unit_items(graph, layout, data.zero);
  const std::vector<UnitRange> buckets = unit_buckets(layout, data);
  std::vector<UnitGradients> gradients;
  if (data.zero >= 2) {
    gradients = transient_gradients(graph, layout, buckets);
    clear_gaps(graph, layout, gradients, inserts);
  } else {
    for (std::size_t p = 0; p < graph.parameters.size(); ++p)
      lay_over(graph, graph.parameters[p].gradient, flat, layout.offset[p]);
    for (const UnitRange& units : buckets) {
      gradients.push_back({units, range_of(graph, flat, layout.units[units.first].offset, elements_of(layout, units),
                                           "grad." + units_name(layout, units))});
    }
  }
  for (const auto& [units, whole] : gradients) {
    std::size_t ready = 0;
    for (std::size_t u = units.first; u <= units.last; ++u) ready = std::max(ready, items[u].ready_after);
    reduce_units(graph, layout, data, units, whole, scratch_bytes, ready, inserts);
  }
}

}  // namespace plimsoll
