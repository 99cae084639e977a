#pragma once
// When each action of a pipeline schedule begins and ends, given what actions and messages cost: the static program
// played on a clock. Stages run their lists in order; an action begins when the stage is free and its message is there.
// Messages overlap with compute, and those of one direction between two stages follow each other.

#include <limits>
#include <vector>

#include "runtime/plan/schedule.hpp"

namespace plimsoll {

// One chunk of one stage and one micro-batch. Backward takes the sum of the gradients.
struct ChunkCost {
  double forward_s;
  double input_grad_s;
  double weight_grad_s;
  double product_s = 0;  // of forward_s: what its output ends with, cut into PipelineLink::parts
};

// From a stage to its neighbour, and as fast back at the same time; a message arrives latency_s after its last byte
// left.
struct PipelineLink {
  double latency_s = 0;
  double bytes_per_s = std::numeric_limits<double>::infinity();
  double message_bytes = 0;  // an activation, or its gradient
  // Of an activation: a part leaves as soon as its share of ChunkCost::product_s is done. One follows the other when
  // that has arrived.
  int parts = 1;
};

struct PipelineCosts {
  std::vector<std::vector<ChunkCost>> chunks;  // [stage][chunk]
  std::vector<PipelineLink> links;  // [stage] to stage + 1, the last one to stage 0; empty: messages are free
};

struct TimedAction {
  Action action;
  double start_s, end_s;  // from the first action of the step
};

struct Timeline {
  std::vector<std::vector<TimedAction>> stages;  // in the order of the schedule
  double step_s;
  std::vector<double> idle_s;  // [stage] of step_s
  double bubble;               // idle time of all stages / (stages · step_s)
};

// Every stage and chunk the same: the costs of one stage, which its chunks share equally.
PipelineCosts uniform_costs(const Schedule& schedule, const ChunkCost& stage, const PipelineLink& link = {});

// Throws Error(Internal) where costs and schedule have different sizes, on a negative cost, and on a schedule that
// verify() refuses as stuck.
Timeline simulate(const Schedule& schedule, const PipelineCosts& costs);

}  // namespace plimsoll
