#include "runtime/plan/simulate.hpp"

#include <algorithm>
#include <array>

#include "runtime/core/error.hpp"
#include "runtime/plan/schedule_check.hpp"

namespace plimsoll {
namespace {

void check_costs(const Schedule& schedule, const PipelineCosts& costs) {
  require(static_cast<int>(costs.chunks.size()) == schedule.stages, ErrorKind::Internal,
          "simulate: costs of {} stages for a schedule of {}", costs.chunks.size(), schedule.stages);
  require(costs.links.empty() || static_cast<int>(costs.links.size()) == schedule.stages, ErrorKind::Internal,
          "simulate: {} links for a schedule of {} stages", costs.links.size(), schedule.stages);
  for (const auto& stage : costs.chunks) {
    require(static_cast<int>(stage.size()) == schedule.chunks, ErrorKind::Internal,
            "simulate: costs of {} chunks per stage for a schedule of {}", stage.size(), schedule.chunks);
    for (const ChunkCost& c : stage) {
      require(c.forward_s >= 0 && c.input_grad_s >= 0 && c.weight_grad_s >= 0, ErrorKind::Internal,
              "simulate: a negative cost");
    }
  }
  for (const PipelineLink& l : costs.links) {
    require(l.latency_s >= 0 && l.bytes_per_s > 0 && l.message_bytes >= 0 && l.parts > 0, ErrorKind::Internal,
            "simulate: a link of negative latency or bytes, or without bandwidth or parts");
  }
}

double duration(const ChunkCost& cost, ActionKind kind) {
  switch (kind) {
    case ActionKind::Forward: return cost.forward_s;
    case ActionKind::Backward: return cost.input_grad_s + cost.weight_grad_s;
    case ActionKind::InputGrad: return cost.input_grad_s;
    case ActionKind::WeightGrad: return cost.weight_grad_s;
  }
  return 0;
}

// The clocks of stages and links, and when each message is there. A stage's actions are taken in order, so its messages
// enter their links in order too.
class Clock {
 public:
  Clock(const Schedule& schedule, const PipelineCosts& costs)
      : schedule_(schedule),
        costs_(costs),
        free_s_(schedule.stages, 0),
        link_free_s_(schedule.stages, {0, 0}),
        arrival_s_(static_cast<std::size_t>(schedule.stages) * schedule.chunks * 2 * schedule.micro_batches, 0) {}

  TimedAction run(int stage, const Action& action) {
    const auto from = receives_from(schedule_, stage, action);
    const double start = std::max(free_s_[stage], from ? arrival_s_[message({stage, action.chunk}, action)] : 0);
    const double end = start + duration(costs_.chunks[stage][action.chunk], action.kind);
    free_s_[stage] = end;
    if (const auto to = sends_to(schedule_, stage, action)) {
      const bool forward = action.kind == ActionKind::Forward;
      const double product = forward ? costs_.chunks[stage][action.chunk].product_s : 0;
      arrival_s_[message(*to, action)] = transfer(stage, to->stage, forward, end, product);
    }
    return {action, start, end};
  }

 private:
  std::size_t message(const PipelinePiece& to, const Action& action) const {
    const int piece = piece_index(schedule_.stages, to.stage, to.chunk);
    const int direction = action.kind == ActionKind::Forward ? 0 : 1;
    return static_cast<std::size_t>(piece * 2 + direction) * schedule_.micro_batches + action.micro_batch;
  }

  // When a message that is ready at `ready_s`, by parts in the last `product_s` before, has arrived.
  double transfer(int from, int to, bool forward, double ready_s, double product_s) {
    if (costs_.links.empty() || from == to) return ready_s;
    const PipelineLink& link = costs_.links[forward ? from : to];
    double& free_s = link_free_s_[from][forward ? 0 : 1];
    const int parts = forward ? link.parts : 1;
    for (int left = parts - 1; left >= 0; --left) {
      free_s = std::max(free_s, ready_s - product_s * left / parts) + link.message_bytes / parts / link.bytes_per_s;
      if (left > 0) free_s += link.latency_s;
    }
    return free_s + link.latency_s;
  }

  const Schedule& schedule_;
  const PipelineCosts& costs_;
  std::vector<double> free_s_;                      // [stage]
  std::vector<std::array<double, 2>> link_free_s_;  // [sender][forward, backward]
  std::vector<double> arrival_s_;                   // by message
};

}  // namespace

PipelineCosts uniform_costs(const Schedule& schedule, const ChunkCost& stage, const PipelineLink& link) {
  const double v = schedule.chunks;
  const ChunkCost chunk{stage.forward_s / v, stage.input_grad_s / v, stage.weight_grad_s / v, stage.product_s};
  return {std::vector(schedule.stages, std::vector(schedule.chunks, chunk)), std::vector(schedule.stages, link)};
}

Timeline simulate(const Schedule& schedule, const PipelineCosts& costs) {
  check_costs(schedule, costs);
  Timeline timeline{std::vector<std::vector<TimedAction>>(schedule.stages), 0, {}, 0};
  Clock clock(schedule, costs);
  const std::vector<int> visited = walk(schedule, [&](int stage, int index) {
    const TimedAction timed = clock.run(stage, schedule.actions[stage][index]);
    timeline.stages[stage].push_back(timed);
    timeline.step_s = std::max(timeline.step_s, timed.end_s);
  });
  double idle_s = 0;
  for (int stage = 0; stage < schedule.stages; ++stage) {
    require(visited[stage] == static_cast<int>(schedule.actions[stage].size()), ErrorKind::Internal,
            "simulate: stage {} waits for ever at action {}", stage, visited[stage]);
    double busy_s = 0;
    for (const TimedAction& t : timeline.stages[stage]) busy_s += t.end_s - t.start_s;
    timeline.idle_s.push_back(timeline.step_s - busy_s);
    idle_s += timeline.idle_s.back();
  }
  timeline.bubble = timeline.step_s > 0 ? idle_s / (schedule.stages * timeline.step_s) : 0;
  return timeline;
}

}  // namespace plimsoll
