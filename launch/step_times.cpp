#include "launch/step_times.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "runtime/core/text.hpp"
#include "runtime/plan/simulate.hpp"
#include "runtime/plan/step_time.hpp"

namespace plimsoll {
namespace {

std::size_t axis_index(std::string_view axis) {
  const auto found = std::find(kMeshAxes.begin(), kMeshAxes.end(), axis);
  require(found != kMeshAxes.end(), ErrorKind::Internal, "no mesh axis '{}'", axis);
  return static_cast<std::size_t>(found - kMeshAxes.begin());
}

AxisStrides strides_of(const Mesh& mesh, int rank) {
  return [&mesh, rank](std::string_view axis) {
    const std::vector<int> group = axis_group(mesh, rank, axis);
    return group.size() > 1 ? group[1] - group[0] : 1;
  };
}

RankTimes rank_times(const StepClock& clock, std::int64_t micro_batches) {
  const StepClock::Work work = clock.work(micro_batches);
  RankTimes times{work.forward_s, work.backward_s, work.update_s, work.recompute_s, {}};
  for (const auto& [axis, seconds] : work.collective_s) times.collective_s[axis_index(axis)] += seconds;
  return times;
}

double message_bytes(const Graph& graph) {
  for (const PieceEnds& ends : graph.pieces) {
    for (const ValueId v : {ends.output, ends.input}) {
      if (v != kNoValue) return static_cast<double>(graph[v].spec.bytes());
    }
  }
  return 0;
}

using Stages = std::vector<std::reference_wrapper<const RankRole>>;

// The schedule of a replica on a clock, then what follows the last backward of each stage. By stage.
Timeline pipeline_timeline(const Stages& roles, const std::vector<std::reference_wrapper<const StepClock>>& clocks,
                           const LayoutMachine& machine) {
  const Mesh& mesh = roles.front().get().options.mesh;
  const LinkDescription& link = link_of(machine.cluster, mesh.pipeline, mesh.tensor * mesh.data);
  PipelineCosts costs;
  std::vector<double> tail;
  for (std::size_t s = 0; s < roles.size(); ++s) {
    costs.chunks.emplace_back();
    const StepClock& clock = clocks[s];
    double last = clock.update_seconds();
    for (int chunk = 0; chunk < roles[s].get().options.chunks; ++chunk) {
      const StepClock::Piece middle = clock.piece_seconds(chunk, Variant::Middle),
                             end = clock.piece_seconds(chunk, Variant::Last);
      costs.chunks.back().push_back({middle.forward_s, middle.first_half_s, middle.second_half_s, middle.product_s});
      last += std::max(0.0, end.first_half_s + end.second_half_s - middle.first_half_s - middle.second_half_s);
    }
    tail.push_back(last);
    const Graph& graph = roles[s].get().programs.graph("train");
    costs.links.push_back({link.latency_s, link.bytes_per_s, message_bytes(graph), graph.message_parts});
  }
  Timeline timeline = simulate(*roles.front().get().programs.schedule, costs);
  for (std::size_t s = 0; s < roles.size(); ++s)
    timeline.step_s = std::max(timeline.step_s, timeline.stages[s].back().end_s + tail[s]);
  return timeline;
}

// Of the role that the rank is of.
std::size_t index_of(const std::vector<RankRole>& roles, int rank) {
  return static_cast<std::size_t>(&role_of(roles, rank) - roles.data());
}

// The step of a replica whose ranks compute as the cost model says.
Timeline replica_timeline(const std::vector<RankRole>& roles, const std::vector<StepClock>& clocks,
                          const LayoutMachine& machine, int replica) {
  const ProgramOptions& o = roles.front().options;
  if (roles.front().programs.schedule == nullptr) {
    const int rank = rank_at(o.mesh, {replica, 0, 0});
    const StepClock& clock = clocks[index_of(roles, rank)];
    const std::int64_t micro_batches = micro_batches_of(o, rank);
    return {{clock.actions(micro_batches)}, clock.step_seconds(micro_batches), {0}, 0};
  }
  Stages stages;
  std::vector<std::reference_wrapper<const StepClock>> clocks_of;
  for (int s = 0; s < o.mesh.pipeline; ++s) {
    const std::size_t role = index_of(roles, rank_at(o.mesh, {replica, s, 0}));
    stages.emplace_back(roles[role]);
    clocks_of.emplace_back(clocks[role]);
  }
  return pipeline_timeline(stages, clocks_of, machine);
}

}  // namespace

StepPrediction predict_step(const std::vector<RankRole>& roles, const LayoutMachine& machine,
                            const std::vector<double>& slowness) {
  StepPrediction prediction;
  std::vector<StepClock> clocks;
  for (const RankRole& role : roles) {
    clocks.emplace_back(role.programs.graph("train"), *machine.costs, strides_of(role.options.mesh, role.options.rank));
    prediction.roles.push_back(rank_times(clocks.back(), micro_batches_of(role.options, role.options.rank)));
  }
  const ProgramOptions& o = roles.front().options;
  prediction.timelines.resize(roles.size());
  // Replicas with as many micro-batches and the same part of the state, as fast as the others, take as long.
  std::map<std::pair<std::int64_t, std::size_t>, double> seconds;
  for (int replica = 0; replica < o.mesh.data; ++replica) {
    const int rank = rank_at(o.mesh, {replica, 0, 0});
    const auto [known, is_new] = seconds.try_emplace({micro_batches_of(o, rank), index_of(roles, rank)}, 0);
    if (is_new) {
      const auto timeline = std::make_shared<const Timeline>(replica_timeline(roles, clocks, machine, replica));
      known->second = timeline->step_s;
      for (int s = 0; s < o.mesh.pipeline; ++s)
        prediction.timelines[index_of(roles, rank_at(o.mesh, {replica, s, 0}))] = timeline;
    }
    const double slow = slowness.empty() ? 1 : slowness[static_cast<std::size_t>(replica)];
    prediction.step_s = std::max(prediction.step_s, slow * known->second);
  }
  return prediction;
}

namespace {

// The same machine where messages take no time.
class QuietCosts : public CostModel {
 public:
  explicit QuietCosts(const CostModel& costs) : costs_(costs) {}
  double node_seconds(const Graph& graph, const Node& node) const override { return costs_.node_seconds(graph, node); }
  double collective_seconds(CollectiveKind, std::int64_t, int, int) const override { return 0; }
  double memory_seconds(std::int64_t bytes) const override { return costs_.memory_seconds(bytes); }

 private:
  const CostModel& costs_;
};

std::string schedule_text(const std::vector<RankRole>& roles) {
  const Programs& programs = roles.front().programs;
  return programs.schedule ? std::string(to_text(programs.schedule->kind)) : "none";
}

}  // namespace

StepReport report_step(const std::vector<RankRole>& roles, const LayoutMachine& machine) {
  StepReport report;
  report.prediction = predict_step(roles, machine);
  const double step_s = report.prediction.step_s;
  for (const auto& timeline : report.prediction.timelines) {
    if (timeline) report.bubble = std::max(report.bubble, timeline->bubble);
  }
  const QuietCosts quiet(*machine.costs);
  LayoutMachine without = machine;
  without.costs = &quiet;
  without.cluster.inside = without.cluster.between = {0, std::numeric_limits<double>::infinity()};
  report.exposed_s = std::max(0.0, step_s - predict_step(roles, without).step_s);
  const ProgramOptions& o = roles.front().options;
  std::int64_t micro_batches = 0;
  for (int replica = 0; replica < o.mesh.data; ++replica)
    micro_batches += micro_batches_of(o, rank_at(o.mesh, {replica, 0, 0}));
  const double flops =
      static_cast<double>(roles.front().programs.train_flops_per_micro_batch) * static_cast<double>(micro_batches);
  const double peak = machine.cluster.device.peak.of(o.dtype);
  if (peak > 0 && step_s > 0) report.mfu = flops / step_s / peak / static_cast<double>(o.mesh.ranks());
  return report;
}

std::string step_text(const StepReport& report, const std::vector<RankRole>& roles, const std::string& costs) {
  return fmt::format(
      "predicted step {}, MFU {:.1f} %, bubble {:.1f} %, exposed communication {}, all by simulation; "
      "schedule {}; {}\n",
      format_seconds(report.prediction.step_s), 100 * report.mfu, 100 * report.bubble, format_seconds(report.exposed_s),
      schedule_text(roles), costs);
}

nlohmann::json step_json(const StepReport& report, const std::vector<RankRole>& roles, const std::string& costs) {
  return {{"step_ms", report.prediction.step_s * 1e3},
          {"mfu", report.mfu},
          {"bubble", report.bubble},
          {"exposed_ms", report.exposed_s * 1e3},
          {"schedule", schedule_text(roles)},
          {"costs", costs}};
}

RankTimes measured_times(const Profile& profile, const std::vector<Profile::Sum>& before, std::int64_t steps,
                         std::int64_t micro_batches) {
  RankTimes times;
  double recompute_s = 0;
  bool whole = false;
  const std::vector<Profile::Sum> now = profile.sums();
  for (std::size_t i = 0; i < now.size(); ++i) {
    const ProfileRow& row = profile.row(static_cast<int>(i));
    if (row.program != "train") continue;
    const std::int64_t earlier = i < before.size() ? before[i].total_ns : 0;
    const double seconds = static_cast<double>(now[i].total_ns - earlier) * 1e-9 / static_cast<double>(steps);
    const double each = seconds / static_cast<double>(micro_batches);
    const bool message =
        row.track == stream_name(StreamKind::Communication) || row.track == stream_name(StreamKind::Tensor);
    if (message && !row.axis.empty()) times.collective_s[axis_index(row.axis)] += seconds;
    if (row.track != "compute") continue;
    if (row.section == "forward") times.forward_s += each;
    if (row.section == "backward") times.backward_s += each;
    if (row.again) recompute_s += each;
    if (row.section == "update") times.update_s += seconds;
    whole = whole || row.whole;
  }
  if (!whole) times.recompute_s = recompute_s;
  return times;
}

}  // namespace plimsoll
