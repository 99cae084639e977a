#pragma once
// `memory.recompute: auto`: what each layer recomputes so that the plan of every stage stays within its bytes and the
// step costs least.
//
// Each stage of the pipeline is planned by itself (runtime/plan/recompute_plan.hpp), with its own micro-batches in
// flight. What its activations may take is not known beforehand, since their planner only models memory: the byte plan
// of the whole program (parameters, gradients, optimizer, communication, evaluation, offsets) is made for what the
// planner answers, and the planner's budget is narrowed down, between one whose plan fits and one whose plan does not,
// until they are near each other. Of the plans that fit, the cheapest is taken. Where none fits, the smallest is made
// smaller step by step (launch/recompute_least.hpp), until a plan fits or nothing helps. Everything follows from the
// arguments: all ranks, and `plan`, choose alike.
//
// Where nothing fits, MLPs may run in blocks of rows (runtime/graph/row_splits.hpp), which changes the order of sums.
//
// Where host memory is offered (ProgramOptions::host), values may wait there. The planner first chooses as if there
// were enough; where that is more than there is, all layers, or the first half, quarter, … of them, get equal shares of
// it, and the best of these is taken. Where copies run beside compute, what they cost follows from all layers together,
// since these share the link: the planner is asked at several prices of the link, with all layers or some of them
// sending, and what comes of it is played on its streams; the cheapest so is taken. Boundaries of layers are put to
// choice where that leaves much to gain, or nothing fits.

#include <span>

#include "launch/known_plans.hpp"
#include "launch/recompute_least.hpp"
#include "runtime/plan/recompute_graph.hpp"

namespace plimsoll {

// How far it is looked for what copies to host memory beside compute cost. Quick, for layouts that are compared, looks
// at fewer answers and bounds none: it costs at least what Thorough comes to, by which the layout that is chosen is
// planned. Where nothing is copied beside compute they choose alike.
enum class Effort : std::uint8_t { Quick, Thorough };

struct StageChoice {
  int stage = 0;
  GraphStage graph;
  LayerChoices layers;  // by layer of the stage; empty: nothing is recomputed
  // The planner's answer that they are; without layers where nothing is recomputed, or the planner had no such answer.
  RecomputePlan plan;
  std::int64_t model_bytes = 0;  // the planner's budget that it answered
  std::int64_t arena_bytes = 0;  // of a byte plan of the stage: of the best one, or of any within the budget
  std::int64_t host_bytes = 0;   // and of its host arena
  double seconds = 0;            // of a micro-batch: forward, backward, what is recomputed and waited for
};

struct RecomputeChoice {
  bool fits = false;
  std::vector<LayerRecompute> layers;  // of the model; empty: nothing is recomputed; where it does not fit, the least
  std::vector<StageChoice> stages;     // one of each kind
  std::vector<std::size_t> kind_of;    // by stage
  double step_seconds = 0;             // of all micro-batches; the slowest stage decides
  const StageChoice& of_stage(int stage) const { return stages[kind_of[static_cast<std::size_t>(stage)]]; }
};

// `options.recompute` is what is chosen: it does not count. `arena_bytes`: budget of the arena. Without `to_the_least`
// the planner's answers are all that is tried: for whoever has other sizes that need less.
RecomputeChoice choose_recompute(const ProgramOptions& options, const CostModel& costs, std::int64_t arena_bytes,
                                 bool to_the_least = true, Effort effort = Effort::Thorough);

// The same for one stage by itself, to compare layouts, with Effort::Quick.
StageChoice choose_stage_recompute(const ProgramOptions& options, int stage, const CostModel& costs,
                                   std::int64_t arena_bytes);

// What the recompute planner sees of the stage of a rank.
GraphStage stage_graph(const ProgramOptions& options, const CostModel& costs);
// What blocks of rows add to a micro-batch there, beside what is made again.
double row_split_seconds(const ProgramOptions& options, const CostModel& costs);

}  // namespace plimsoll
