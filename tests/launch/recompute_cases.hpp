#pragma once
// Runs whose recomputation is chosen, for its tests.

#include "launch/recompute_choice.hpp"
#include "launch/run_costs.hpp"
#include "launch/run_setup.hpp"
#include "runtime/plan/offload_costs.hpp"
#include "tests/launch/tiny_run.hpp"

namespace plimsoll::test {

struct Case {
  std::string name;
  ModelFamily family;
  Mesh mesh;
  int zero = 0;
  bool sequence_parallel = false;
  ScheduleKind schedule = ScheduleKind::OneFOneB;
  int chunks = 1;
  HostMemory host = {};
};
// A link that is faster than any kernel, whose copies take time of compute all the same.
inline constexpr HostMemory kOffered{kNoHostLimit, true, false};
inline DescribedCosts costs_with_link(double latency_s, double bytes_per_s) {
  ClusterDescription cluster;
  cluster.device.host = {latency_s, bytes_per_s};
  return DescribedCosts(cluster);
}

inline ProgramOptions options_of(const Case& c) {
  ProgramOptions o = tiny_options(c.family);
  o.model.layers = 8;
  if (c.family == ModelFamily::Gpt2) o.model.dropout = 0.1;
  o.sequence = 64;
  o.mesh = c.mesh;
  o.mesh.shards = c.zero > 0 ? c.mesh.data : 1;
  o.zero = c.zero;
  o.sequence_parallel = c.sequence_parallel;
  o.schedule = c.schedule;
  o.chunks = c.chunks;
  o.micro_batches = 8;
  o.evaluate = true;
  o.host = c.host;
  return o;
}

// The most that a rank of any stage needs, and what the slowest one adds to a micro-batch.
struct Outcome {
  std::int64_t bytes = 0;
  double seconds = 0;
  std::int64_t host = 0;
};
inline Outcome outcome_of(ProgramOptions o, const CostModel& costs) {
  Outcome outcome;
  for (int stage = 0; stage < o.mesh.pipeline; ++stage) {
    o.rank = rank_at(o.mesh, {0, stage, 0});
    const Programs programs = build_programs(o);
    outcome.bytes = std::max(outcome.bytes, programs.plan.total_bytes);
    outcome.host = std::max(outcome.host, programs.plan.host_bytes);
    const Graph& graph = programs.graph("train");
    outcome.seconds = std::max(outcome.seconds, recompute_seconds(graph, costs) + row_split_seconds(o, costs) +
                                                    offload_seconds(graph, costs, o.host.overlap));
  }
  return outcome;
}

// The least that the planner finds without row-splits.
inline std::int64_t least_without_row_splits(ProgramOptions o, const CostModel& costs) {
  const GraphStage stage = stage_graph(o, costs);
  EXPECT_FALSE(stage.stage.row_splits);
  const auto none = std::get<RecomputeInfeasible>(plan_recompute(stage.stage, 0));
  const auto least = std::get<RecomputePlan>(plan_recompute(stage.stage, none.needed_bytes));
  o.recompute = layer_recompute(stage, least);
  std::int64_t bytes = outcome_of(o, costs).bytes;
  o.recompute.assign(static_cast<std::size_t>(o.model.layers), {RecomputeMode::Full, {}});
  bytes = std::min(bytes, outcome_of(o, costs).bytes);
  return bytes;
}

inline Config config_of(const std::vector<std::string>& overrides = {}) {
  std::vector<std::string> all{"run.threads=1"};
  all.insert(all.end(), overrides.begin(), overrides.end());
  return parse_config(
      "model: {family: gpt2, layers: 6, hidden: 48, heads: 4, vocabulary: 61, positions: 64}\n"
      "data: {train: none, sequence: 64, validation: 0}\n"
      "train: {global_batch: 8, micro_batch: 8}\n",
      "f", all);
}

}  // namespace plimsoll::test
