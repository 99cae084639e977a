#include "runtime/model/flat_layout.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace plimsoll {
namespace {

std::int64_t round_up(std::int64_t n, std::int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// A pipeline has a copy of a tied embedding at both ends, and ZeRO's shards of the two are summed: they must be alike,
// so the embedding is a unit of its own there.
bool alone(const Graph& graph, const Parameter& parameter) {
  return !graph.pieces.empty() && graph[parameter.value].name == "embedding";
}

// Units of the parameters, numbered in model order: those before the layers, each layer, those after.
std::vector<int> unit_numbers(const Graph& graph) {
  std::vector<int> unit;
  int number = -1, layer = 0;
  bool was_alone = false;
  for (const Parameter& p : graph.parameters) {
    const int now = graph[p.value].layer;
    const bool is_alone = alone(graph, p);
    if (number < 0 || now != layer || is_alone != was_alone) ++number;
    layer = now;
    was_alone = is_alone;
    unit.push_back(number);
  }
  return unit;
}

// Of the unit that the parameter is of.
std::string unit_name(const Graph& graph, std::size_t p, bool first) {
  const int layer = graph[graph.parameters[p].value].layer;
  if (layer >= 0) return fmt::format("layer {}", layer);
  const bool before = std::any_of(graph.parameters.begin() + static_cast<std::ptrdiff_t>(p), graph.parameters.end(),
                                  [&](const Parameter& other) { return graph[other.value].layer >= 0; });
  if (graph.pieces.empty()) return first ? "embedding" : "head";
  return alone(graph, graph.parameters[p]) ? "embedding" : before ? "positions" : "head";
}

// Each part to the nearest line; equal shares of what their number divides are equal parts.
RankCuts cuts_of(std::int64_t elements, std::int64_t line, std::span<const std::int64_t> shares) {
  const auto all = static_cast<double>(std::accumulate(shares.begin(), shares.end(), std::int64_t{0}));
  RankCuts cuts{0};
  std::int64_t before = 0;
  const std::int64_t lines = elements / line;
  for (const std::int64_t share : shares) {
    before += share;
    cuts.push_back(std::llround(static_cast<double>(lines) * (static_cast<double>(before) / all)) * line);
  }
  return cuts;
}

}  // namespace

FlatLayout flat_layout(const Graph& graph, int shards, std::span<const std::int64_t> shares) {
  require(shares.empty() || std::ssize(shares) == shards, ErrorKind::Internal, "{} shares for {} shards", shares.size(),
          shards);
  FlatLayout layout;
  layout.shards = shards;
  layout.offset.resize(graph.parameters.size());
  layout.unit = unit_numbers(graph);
  const int units = layout.unit.empty() ? 0 : layout.unit.back() + 1;
  for (int& number : layout.unit) number = units - 1 - number;
  std::vector<std::vector<std::size_t>> members(static_cast<std::size_t>(units));  // from behind
  for (std::size_t p = graph.parameters.size(); p-- > 0;)
    members[static_cast<std::size_t>(layout.unit[p])].push_back(p);
  const std::int64_t line = 64 / dtype_bytes(graph[graph.parameters.front().value].spec.dtype);
  for (int u = 0; u < units; ++u) {
    Unit unit;
    unit.offset = layout.elements;
    for (const bool decays : {true, false}) {
      for (const std::size_t p : members[static_cast<std::size_t>(u)]) {
        const Parameter& parameter = graph.parameters[p];
        if (parameter.decays() != decays) continue;
        unit.layer = graph[parameter.value].layer;
        layout.offset[p] = unit.offset + unit.elements;
        unit.elements += round_up(graph[parameter.value].spec.elements(), line);
      }
      if (decays) unit.decay_elements = unit.elements;
    }
    unit.name = unit_name(graph, members[static_cast<std::size_t>(u)].back(), u + 1 == units);
    unit.elements = round_up(unit.elements, line * shards);
    if (!shares.empty()) unit.cuts = cuts_of(unit.elements, line, shares);
    layout.elements += unit.elements;
    layout.units.push_back(std::move(unit));
  }
  return layout;
}

ElementRange shard_range(const FlatLayout& layout, const Unit& unit, int rank) {
  return range_of_rank(unit.elements, rank, layout.shards, unit.cuts);
}

namespace {

// Of all units before one.
std::int64_t elements_before(const FlatLayout& layout, std::size_t unit, int rank) {
  std::int64_t elements = 0;
  for (std::size_t u = 0; u < unit; ++u) elements += shard_range(layout, layout.units[u], rank).count;
  return elements;
}

}  // namespace

std::int64_t shard_elements(const FlatLayout& layout, int rank) {
  return elements_before(layout, layout.units.size(), rank);
}

ValueId unit_part(Graph& graph, const FlatLayout& layout, std::string_view buffer, std::size_t unit, int shard_rank) {
  const ValueId flat = graph.find(buffer);
  const Unit& u = layout.units[unit];
  const ElementRange mine = shard_range(layout, u, shard_rank);
  const bool whole = graph[flat].spec.elements() == layout.elements;
  Value part = graph[flat];
  part.name = fmt::format("{}.{}.mine", buffer, u.name);
  part.spec = {{mine.count}, graph[flat].spec.dtype};
  part.base = flat;
  part.byte_offset =
      (whole ? u.offset + mine.first : elements_before(layout, unit, shard_rank)) * dtype_bytes(part.spec.dtype);
  part.layer = u.layer;
  return graph.add_value(std::move(part));
}

void for_each_run(const Graph& graph, const FlatLayout& layout, const std::function<void(const TensorRun&)>& visit) {
  for (std::size_t p = 0; p < graph.parameters.size(); ++p) {
    const Parameter& parameter = graph.parameters[p];
    const Shape& local = graph[parameter.value].spec.shape;
    const std::int64_t local_columns = local.elements() / local[0];
    for (const ParameterPart& part : parameter.parts) {
      const std::int64_t tensor_columns = part.shape.elements() / part.shape[0];
      const bool whole_rows = part.columns == tensor_columns && part.columns == local_columns;
      const std::int64_t rows = whole_rows ? 1 : part.rows;
      for (std::int64_t r = 0; r < rows; ++r) {
        visit({&part, &parameter, (part.row + r) * tensor_columns + part.column,
               layout.offset[p] + (part.at_row + r) * local_columns + part.at_column,
               whole_rows ? part.rows * part.columns : part.columns});
      }
    }
  }
}

void for_each_shard_range(const FlatLayout& layout, int rank, std::int64_t first, std::int64_t count,
                          const std::function<void(const ShardRange&)>& visit) {
  std::int64_t before = 0;
  for (const Unit& unit : layout.units) {
    const ElementRange mine = shard_range(layout, unit, rank);
    const std::int64_t begin = unit.offset + mine.first;
    const std::int64_t from = std::max(first, begin), to = std::min(first + count, begin + mine.count);
    if (from < to) visit({from, before + (from - begin), to - from});
    before += mine.count;
  }
}

}  // namespace plimsoll
