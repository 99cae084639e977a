#include "parallel/data.hpp"

#include <algorithm>
#include <numeric>

#include "parallel/zero.hpp"

namespace plimsoll {
namespace {

Node gather(const Graph& graph, const DataParallel& data, const Unit& unit, ValueId shard, ValueId whole) {
  return communication_node<AllGather>(graph, over_shards(data, unit), Phase::Forward,
                                       {{AllGather::kX, shard}, {AllGather::kY, whole}}, "gather." + unit.name,
                                       unit.layer, kEveryVariant);
}

Node gather_units(const Graph& graph, const FlatLayout& layout, const DataParallel& data, const UnitRange& units,
                  ValueId shards, ValueId whole) {
  GatherUnits::Attrs attrs{"shard", data.shards, data.shard_rank, parts_of(layout, units)};
  return communication_node<GatherUnits>(graph, std::move(attrs), Phase::Forward,
                                         {{GatherUnits::kX, shards}, {GatherUnits::kY, whole}},
                                         "gather." + units_name(layout, units), -1, kEveryVariant);
}

ValueId flat_buffer(Graph& graph, const std::string& name, MemoryClass memory, TensorSpec spec) {
  Value flat;
  flat.name = name;
  flat.spec = spec;
  flat.persistent = true;
  flat.memory = memory;
  return graph.named[name] = graph.add_value(std::move(flat));
}

DType parameter_dtype(const Graph& graph) { return graph[graph.parameters.front().value].spec.dtype; }

// Consecutive nodes that run together, use parameters of one unit and of no other in between.
struct Use {
  std::size_t unit, first, last;
  std::vector<std::pair<std::size_t, std::size_t>> slots;  // (node, slot) that hold a parameter
};

std::vector<Use> parameter_uses(const Graph& graph, const FlatLayout& layout) {
  std::vector<int> parameter_of(graph.values.size(), -1);
  for (std::size_t p = 0; p < graph.parameters.size(); ++p) {
    parameter_of[static_cast<std::size_t>(graph.parameters[p].value)] = static_cast<int>(p);
  }
  std::vector<Use> uses;
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    for (std::size_t s = 0; s < static_cast<std::size_t>(kMaxSlots); ++s) {
      const ValueId v = graph.nodes[n].value[s];
      const int p = v == kNoValue ? -1 : parameter_of[static_cast<std::size_t>(v)];
      if (p < 0) continue;
      const auto unit = static_cast<std::size_t>(layout.unit[static_cast<std::size_t>(p)]);
      if (uses.empty() || uses.back().unit != unit || !run_together(graph, uses.back().last, n)) {
        uses.push_back({unit, n, n, {}});
      }
      uses.back().last = n;
      uses.back().slots.emplace_back(n, s);
    }
  }
  return uses;
}

// Forward goes through the units of the flat buffer from behind, backward from the front. Do their shards lie side by
// side, in the order in which two uses that follow each other meet them?
bool neighbours(const Graph& graph, const Use& before, const Use& use) {
  const bool forward = graph.section(use.first) == Graph::Section::Forward;
  return run_together(graph, before.last, use.first) &&
         (forward ? use.unit + 1 == before.unit : before.unit + 1 == use.unit);
}

// The slots of a use, of `unit`, see what was gathered from element `from` of `whole` on.
void use_gathered(Graph& graph, const FlatLayout& layout, const std::vector<int>& parameter_of, const Use& use,
                  ValueId whole, std::int64_t from, std::size_t index) {
  for (const auto& [node, slot] : use.slots) {
    ValueId& value = graph.nodes[node].value[slot];
    const auto p = static_cast<std::size_t>(parameter_of[static_cast<std::size_t>(value)]);
    Value view = graph[value];
    view.name += fmt::format(".gathered{}", index);
    value = graph.add_value(std::move(view));
    lay_over(graph, value, whole, from + layout.offset[p] - layout.units[use.unit].offset);
  }
}

// Gathers the units of each gather, uses [ends[g - 1], ends[g]), where the first use of one before it that runs
// together with it begins: as far ahead as `data` says.
void gather_uses(Graph& graph, const FlatLayout& layout, const DataParallel& data) {
  std::vector<int> parameter_of(graph.values.size(), -1);
  for (std::size_t p = 0; p < graph.parameters.size(); ++p) {
    parameter_of[static_cast<std::size_t>(graph.parameters[p].value)] = static_cast<int>(p);
  }
  const std::vector<Use> uses = parameter_uses(graph, layout);
  std::vector<std::size_t> ends = data.gather_ends;
  for (std::size_t u = 0; u < uses.size() && data.gather_ends.empty(); ++u) ends.push_back(u + 1);
  require(uses.empty() || (!ends.empty() && ends.back() == uses.size()), ErrorKind::Internal,
          "gathers of {} uses, the program has {}", ends.empty() ? 0 : ends.back(), uses.size());
  Inserts inserts;
  std::vector<std::size_t> begins;  // first use of each gather
  for (std::size_t g = 0; g < ends.size(); ++g) {
    const std::size_t begin = begins.emplace_back(g == 0 ? 0 : ends[g - 1]);
    for (std::size_t u = begin + 1; u < ends[g]; ++u) {
      require(neighbours(graph, uses[u - 1], uses[u]), ErrorKind::Internal, "uses {} and {} are no neighbours", u - 1,
              u);
    }
    const auto [first, last] = std::minmax(uses[begin].unit, uses[ends[g] - 1].unit);
    const UnitRange units{first, last};
    const Unit& one = layout.units[first];
    Value buffer;
    buffer.name = fmt::format("gathered.{}.{}", one.name, g);
    buffer.spec = {{elements_of(layout, units)}, graph[graph.find("parameters")].spec.dtype};
    buffer.memory = MemoryClass::Communication;
    buffer.layer = layer_of(layout, units);
    const ValueId whole = graph.add_value(std::move(buffer));
    for (std::size_t u = begin; u < ends[g]; ++u)
      use_gathered(graph, layout, parameter_of, uses[u], whole, layout.units[uses[u].unit].offset - one.offset, u);
    const ValueId mine = shards_of(graph, layout, "parameters", units, data.shard_rank);
    std::size_t at = g;
    while (at > 0 && g - at < static_cast<std::size_t>(data.prefetch) &&
           run_together(graph, uses[begins[at - 1]].first, uses[begin].first))
      --at;
    inserts.push_back(
        {uses[begins[at]].first, true,
         units.one() ? gather(graph, data, one, mine, whole) : gather_units(graph, layout, data, units, mine, whole)});
  }
  insert_nodes(graph, std::move(inserts));
}

// Sums a bucket of the flat gradients inside nodes, its shares over nodes, and gathers it.
void reduce_by_nodes(Graph& graph, const DataParallel& data, ValueId flat, const GradientRange& bucket,
                     std::int64_t scratch_bytes, int index, Inserts& inserts) {
  const std::int64_t length = bucket.elements / data.node_ranks;
  require(length * data.node_ranks == bucket.elements, ErrorKind::Internal, "{} elements over {} ranks of a node",
          bucket.elements, data.node_ranks);
  const std::string name = fmt::format("gradients.bucket{}", index);
  const ValueId whole = range_of(graph, flat, bucket.offset, bucket.elements, name);
  const ValueId mine = range_of(graph, flat, bucket.offset + data.node_rank * length, length, name + ".mine");
  const auto add = [&](Node node) { inserts.push_back({bucket.ready_after, false, std::move(node)}); };
  add(communication_node<ReduceScatter>(graph, {"shard", data.node_ranks, 0}, Phase::Forward,
                                        {{ReduceScatter::kX, whole}, {ReduceScatter::kY, mine}},
                                        fmt::format("reduce.bucket{}.inside", index), -1, kFinalVariants));
  add(all_reduce(graph, "replica", data.ranks / data.node_ranks, mine, scratch_bytes,
                 fmt::format("reduce.bucket{}", index)));
  add(communication_node<AllGather>(graph, {"shard", data.node_ranks, 0}, Phase::Forward,
                                    {{AllGather::kX, mine}, {AllGather::kY, whole}},
                                    fmt::format("gather.bucket{}", index), -1, kFinalVariants));
}

void reduce_loss(Graph& graph, const DataParallel& data, std::int64_t scratch_bytes, Inserts& inserts) {
  const auto found = graph.named.find("loss");
  if (found == graph.named.end()) return;  // a stage of a pipeline without the head
  const ValueId loss = found->second;
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    bool writes = false;
    for_each_access(graph, graph.nodes[n],
                    [&](const MemoryAccess& a) { writes = writes || (a.value == loss && a.writes); });
    if (!writes) continue;
    inserts.push_back({n, false, all_reduce(graph, "data", data.ranks, loss, scratch_bytes, "reduce.loss")});
  }
}

}  // namespace

DType gradient_dtype(const Graph& graph) { return graph[graph.parameters.front().gradient].spec.dtype; }

GatherSections gathered_uses(const Graph& graph, const FlatLayout& layout, const std::vector<GradientRange>& sums,
                             const std::vector<double>& node_ends,
                             const std::function<double(std::int64_t)>& sum_seconds) {
  // When compute has come to a node, if it waits for no gather.
  std::vector<double> reached(graph.nodes.size() + 1, 0);
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    const bool computes = graph.nodes[n].stream == StreamKind::Compute;
    reached[n + 1] = computes ? std::max(reached[n], node_ends[n]) : reached[n];
  }
  const std::int64_t element = dtype_bytes(parameter_dtype(graph)), gradient = dtype_bytes(gradient_dtype(graph));
  const std::vector<Use> uses = parameter_uses(graph, layout);
  GatherSections sections;
  for (std::size_t u = 0; u < uses.size(); ++u) {
    const Graph::Section section = graph.section(uses[u].first);
    if (u == 0 || !run_together(graph, uses[u - 1].first, uses[u].first)) sections.emplace_back();
    std::size_t end = uses[u].last + 1;
    while (end < graph.nodes.size() && run_together(graph, end, uses[u].first) &&
           (u + 1 == uses.size() || end < uses[u + 1].first))
      ++end;
    const bool joins = !sections.back().empty() && neighbours(graph, uses[u - 1], uses[u]);
    GatherUse& use = sections.back().emplace_back();
    use.joins = joins;
    use.compute_s = reached[end] - reached[uses[u].first];
    use.bytes = layout.units[uses[u].unit].elements * element;
    for (const GradientRange& sum : sums) {
      if (section == Graph::Section::Backward && sum.ready_after >= uses[u].first && sum.ready_after < end)
        use.after_s += sum_seconds(sum.elements * gradient);
    }
  }
  return sections;
}

std::vector<GradientRange> gradient_items(const Graph& graph, const FlatLayout& layout, int zero) {
  if (zero > 0) return unit_items(graph, layout, zero);
  const std::vector<std::size_t> last_write = last_writes(graph);
  std::vector<std::size_t> order(graph.parameters.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return layout.offset[a] < layout.offset[b]; });
  std::vector<GradientRange> items;
  int unit = -1;
  for (const std::size_t p : order) {
    const bool begins = layout.unit[p] != unit || graph.parameters[p].decays();
    unit = layout.unit[p];
    if (begins) items.push_back({layout.offset[p], 0, 0});
    items.back().ready_after =
        std::max(items.back().ready_after, last_write[static_cast<std::size_t>(graph.parameters[p].gradient)]);
  }
  for (std::size_t i = 0; i < items.size(); ++i)
    items[i].elements = (i + 1 < items.size() ? items[i + 1].offset : layout.elements) - items[i].offset;
  return items;
}

std::vector<GradientRange> join_items(const std::vector<GradientRange>& items, const std::vector<std::size_t>& ends) {
  std::vector<GradientRange> buckets;
  std::size_t item = 0;
  for (const std::size_t end : ends) {
    buckets.push_back({items[item].offset, 0, 0});
    for (; item < end; ++item) {
      buckets.back().elements += items[item].elements;
      buckets.back().ready_after = std::max(buckets.back().ready_after, items[item].ready_after);
    }
  }
  return buckets;
}

std::vector<ReadyItem> ready_items(const Graph& graph, const std::vector<GradientRange>& items,
                                   const std::vector<double>& node_ends) {
  const std::int64_t element = dtype_bytes(gradient_dtype(graph));
  std::vector<ReadyItem> ready;
  for (const GradientRange& item : items)
    ready.push_back({node_ends[item.ready_after], item.elements * element, item.joins});
  return ready;
}

namespace {

// Without ZeRO.
void place_whole_gradients(Graph& graph, const FlatLayout& layout, const DataParallel& data, ValueId flat,
                           std::int64_t scratch_bytes, Inserts& inserts) {
  for (std::size_t p = 0; p < graph.parameters.size(); ++p)
    lay_over(graph, graph.parameters[p].gradient, flat, layout.offset[p]);
  if (data.ranks == 1) return;
  const std::vector<GradientRange> items = gradient_items(graph, layout);
  std::vector<std::size_t> ends = data.bucket_ends;
  if (ends.empty()) {
    const std::vector<double> any_time(graph.nodes.size(), 0);
    ends = fixed_buckets(ready_items(graph, items, any_time), data.bucket_bytes);
  }
  int index = 0;
  for (const GradientRange& bucket : join_items(items, ends)) {
    if (data.node_ranks > 1) {
      reduce_by_nodes(graph, data, flat, bucket, scratch_bytes, index++, inserts);
      continue;
    }
    const ValueId part =
        range_of(graph, flat, bucket.offset, bucket.elements, fmt::format("gradients.bucket{}", index));
    inserts.push_back(
        {bucket.ready_after, false,
         all_reduce(graph, "data", data.ranks, part, scratch_bytes, fmt::format("reduce.bucket{}", index++))});
  }
}

}  // namespace

void place_parameters(Graph& graph, const FlatLayout& layout, const DataParallel& data) {
  const bool sharded = data.zero == 3;
  const ValueId flat =
      flat_buffer(graph, "parameters", MemoryClass::Parameters,
                  {{sharded ? shard_elements(layout, data.shard_rank) : layout.elements}, parameter_dtype(graph)});
  for (std::size_t p = 0; p < graph.parameters.size(); ++p) {
    const ValueId value = graph.parameters[p].value;
    if (sharded) {
      graph[value].persistent = false;  // it has no memory of its own: its uses see what was gathered
    } else {
      lay_over(graph, value, flat, layout.offset[p]);
    }
  }
  if (sharded) gather_uses(graph, layout, data);
}

void place_gradients(Graph& graph, const FlatLayout& layout, const DataParallel& data, std::int64_t scratch_bytes) {
  require(data.ranks > 1 || data.zero == 0, ErrorKind::Internal, "zero {} with one replica", data.zero);
  const bool sharded = data.zero >= 2;
  const ValueId flat =
      flat_buffer(graph, "gradients", MemoryClass::Gradients,
                  {{sharded ? shard_elements(layout, data.shard_rank) : layout.elements}, gradient_dtype(graph)});
  Inserts inserts;
  if (data.zero > 0) {
    place_unit_gradients(graph, layout, data, flat, scratch_bytes, inserts);
  } else {
    place_whole_gradients(graph, layout, data, flat, scratch_bytes, inserts);
  }
  if (data.ranks > 1) reduce_loss(graph, data, scratch_bytes, inserts);
  insert_nodes(graph, std::move(inserts));
}

void gather_updated(Graph& graph, const FlatLayout& layout, const DataParallel& data) {
  if (data.zero != 1 && data.zero != 2) return;
  const ValueId flat = graph.find("parameters");
  std::vector<std::size_t> updated(layout.units.size());
  std::vector<ValueId> mine(layout.units.size());
  for (std::size_t u = 0; u < layout.units.size(); ++u) {
    mine[u] = unit_part(graph, layout, "parameters", u, data.shard_rank);
    for (std::size_t n = graph.update_begin; n < graph.nodes.size(); ++n) {
      for_each_access(graph, graph.nodes[n], [&](const MemoryAccess& a) {
        // By name: where shards are empty, several begin at one place.
        if (a.writes && graph.root(a.value) == flat && graph[a.value].name == graph[mine[u]].name) updated[u] = n;
      });
    }
  }
  Inserts inserts;
  for (std::size_t u = 0; u < layout.units.size(); ++u) {
    const Unit& unit = layout.units[u];
    const ValueId whole = range_of(graph, flat, unit.offset, unit.elements, "parameters." + unit.name);
    inserts.push_back({updated[u], false, gather(graph, data, unit, mine[u], whole)});
  }
  insert_nodes(graph, std::move(inserts));
}

}  // namespace plimsoll
