#pragma once
// `parallel.shard: auto`: over how many replicas ZeRO divides (planner.md, section 3). Each further rank makes shards
// smaller, and below nine times the product of bandwidth and latency of their link a message is mostly latency; so ZeRO
// divides no further than that, unless memory needs it.

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "launch/message_sizes.hpp"

namespace plimsoll {

// The share of the bandwidth that scattering and gathering a unit must reach.
inline constexpr double kShardEfficiency = 0.9;

// Groups of neighbours among `data` replicas of `tensor` ranks: divisors of `data` that are within a node or fill whole
// nodes, and all of them.
std::vector<int> shard_groups(int data, int tensor, std::int64_t ranks_per_node);

// The group for `options`, whose ZeRO divides something, over these links. A unit is the one that the byte in the
// middle of the parameters lies in. The same on all ranks.
ShardGroupChoice choose_shards(const ProgramOptions& options, const CostModel& links, std::int64_t ranks_per_node,
                               const FitsEverywhere& fits);

// "zero divides over 2 of 4 replicas: …"; empty where nothing was chosen.
std::string shard_choice_text(const ProgramOptions& options);
nlohmann::json shard_choice_json(const ShardGroupChoice& choice);

}  // namespace plimsoll
