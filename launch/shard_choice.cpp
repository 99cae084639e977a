#include "launch/shard_choice.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "runtime/core/text.hpp"

namespace plimsoll {
namespace {

// Bytes of the unit in which the middle byte of all parameters lies, when units stand by their size.
std::int64_t middle_unit_bytes(const ProgramOptions& o) {
  std::vector<std::int64_t> units;
  std::int64_t all = 0;
  for (const int stage : distinct_stages(o)) {
    const Graph graph = keeping_graph(at_stage(o, stage)).graph;
    for (const Unit& unit : flat_layout(graph).units) {
      units.push_back(unit.elements * dtype_bytes(o.dtype));
      all += units.back();
    }
  }
  std::sort(units.begin(), units.end());
  std::int64_t smaller = 0;
  const auto middle = std::find_if(units.begin(), units.end(), [&](std::int64_t bytes) {
    smaller += bytes;
    return 2 * smaller >= all;
  });
  return *middle;
}

}  // namespace

std::vector<int> shard_groups(int data, int tensor, std::int64_t ranks_per_node) {
  std::vector<int> groups;
  for (int d = 1; d <= data; ++d) {
    const std::int64_t span = std::int64_t{d} * tensor;
    const bool respects_nodes = ranks_per_node % span == 0 || span % ranks_per_node == 0;
    if (data % d == 0 && (respects_nodes || d == 1 || d == data)) groups.push_back(d);
  }
  return groups;
}

ShardGroupChoice choose_shards(const ProgramOptions& options, const CostModel& links, std::int64_t ranks_per_node,
                               const FitsEverywhere& fits) {
  const std::int64_t unit = middle_unit_bytes(options);
  std::vector<ShardGroup> groups;
  for (const int ranks : shard_groups(options.mesh.data, options.mesh.tensor, ranks_per_node)) {
    ShardGroup& group = groups.emplace_back(ShardGroup{ranks, 0});
    if (ranks == 1) continue;
    for (const CollectiveKind kind : {CollectiveKind::ReduceScatter, CollectiveKind::AllGather}) {
      const LinkLine line = line_of(
          [&](std::int64_t bytes) { return links.collective_seconds(kind, bytes, ranks, options.mesh.tensor); }, unit);
      group.least_bytes = std::max(group.least_bytes, efficient_bytes(line, kShardEfficiency));
    }
  }
  return choose_shard_group(std::move(groups), unit, [&](int ranks) {
    ProgramOptions with = options;
    with.mesh.shards = ranks;
    return fits(with);
  });
}

std::string shard_choice_text(const ProgramOptions& o) {
  if (!o.shard_choice) return "";
  const ShardGroupChoice& choice = *o.shard_choice;
  std::string out = fmt::format("zero divides over {} of {} replicas: units of {}; {:.0f} % of the bandwidth needs",
                                choice.ranks, o.mesh.data, format_bytes(choice.unit_bytes), 100 * kShardEfficiency);
  for (const ShardGroup& group : choice.groups)
    out += fmt::format(" {} over {}{}", format_bytes(group.least_bytes), group.ranks,
                       &group == &choice.groups.back() ? "" : ",");
  if (choice.by_links < choice.ranks) out += fmt::format("; links ask for {}, memory for more", choice.by_links);
  return out + "\n";
}

nlohmann::json shard_choice_json(const ShardGroupChoice& choice) {
  nlohmann::json json{{"ranks", choice.ranks},
                      {"by_links", choice.by_links},
                      {"unit_bytes", choice.unit_bytes},
                      {"groups", nlohmann::json::array()}};
  for (const ShardGroup& group : choice.groups)
    json["groups"].push_back({{"ranks", group.ranks}, {"least_bytes", group.least_bytes}});
  return json;
}

}  // namespace plimsoll
