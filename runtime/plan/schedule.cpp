#include "runtime/plan/schedule.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

// Appends actions to one stage; slots are filled in when the list is complete.
struct StageList {
  std::vector<Action>& actions;
  void add(ActionKind kind, int micro_batch, int chunk = 0) { actions.push_back({kind, chunk, micro_batch, 0}); }
};

void gpipe(StageList list, int micro_batches) {
  for (int i = 0; i < micro_batches; ++i) list.add(ActionKind::Forward, i);
  for (int i = 0; i < micro_batches; ++i) list.add(ActionKind::Backward, i);
}

void one_f_one_b(StageList list, int stages, int stage, int micro_batches) {
  const int ahead = std::min(micro_batches, stages - 1 - stage);
  for (int i = 0; i < ahead; ++i) list.add(ActionKind::Forward, i);
  for (int i = 0; i < micro_batches; ++i) {
    if (ahead + i < micro_batches) list.add(ActionKind::Forward, ahead + i);
    list.add(ActionKind::Backward, i);
  }
}

// The k-th forward of a stage runs chunk (k / p) mod v: p micro-batches through one chunk, the same p through the next,
// then the next p. Backward takes the chunks in the other direction.
void interleaved(StageList list, int stages, int stage, int micro_batches, int chunks) {
  const int total = micro_batches * chunks;
  const auto micro_batch = [&](int k) { return k / (stages * chunks) * stages + k % stages; };
  const auto chunk = [&](int k) { return k / stages % chunks; };
  const int ahead = std::min(total, 2 * (stages - 1 - stage) + (chunks - 1) * stages);
  for (int k = 0; k < ahead; ++k) list.add(ActionKind::Forward, micro_batch(k), chunk(k));
  for (int k = 0; k < total; ++k) {
    if (ahead + k < total) list.add(ActionKind::Forward, micro_batch(ahead + k), chunk(ahead + k));
    list.add(ActionKind::Backward, micro_batch(k), chunks - 1 - chunk(k));
  }
}

void zb_h1(StageList list, int stages, int stage, int micro_batches) {
  const int ahead = std::min(micro_batches, stages - 1 - stage);
  for (int i = 0; i < ahead; ++i) list.add(ActionKind::Forward, i);
  for (int i = 0; i < micro_batches; ++i) {
    if (ahead + i < micro_batches) list.add(ActionKind::Forward, ahead + i);
    list.add(ActionKind::InputGrad, i);
    if (i >= stage) list.add(ActionKind::WeightGrad, i - stage);
  }
  for (int i = std::max(0, micro_batches - stage); i < micro_batches; ++i) list.add(ActionKind::WeightGrad, i);
}

// Slots of one stage. Forward and the release of a slot both take the micro-batches of a chunk in rising order: those
// in flight are consecutive, and micro-batch i mod (the most in flight) is free when i begins.
std::vector<int> assign_slots(std::vector<Action>& actions, int chunks, ActionKind release) {
  std::vector<int> in_flight(chunks, 0);
  std::vector<int> most(chunks, 0);
  for (const Action& a : actions) {
    if (a.kind == ActionKind::Forward) most[a.chunk] = std::max(most[a.chunk], ++in_flight[a.chunk]);
    if (a.kind == release) --in_flight[a.chunk];
  }
  for (Action& a : actions) a.slot = a.micro_batch % most[a.chunk];
  return most;
}

void check_sizes(ScheduleKind kind, int stages, int micro_batches, int chunks) {
  require(stages >= 1 && micro_batches >= 1 && chunks >= 1, ErrorKind::Config,
          "a pipeline schedule needs at least one stage, micro-batch and chunk, not {}, {} and {}", stages,
          micro_batches, chunks);
  if (kind != ScheduleKind::Interleaved) {
    require(chunks == 1, ErrorKind::Config, "schedule {} has one chunk per stage, not {}: only interleaved has several",
            to_text(kind), chunks);
    return;
  }
  require(chunks >= 2, ErrorKind::Config, "schedule interleaved needs at least two chunks per stage; 1f1b has one");
  require(micro_batches % stages == 0, ErrorKind::Config,
          "schedule interleaved needs micro-batches that the stages divide: {} micro-batches over {} stages",
          micro_batches, stages);
}

// The piece `step` places behind (or before) the one that a stage's chunk is, or nullopt past the ends.
std::optional<PipelinePiece> neighbour(const Schedule& schedule, int stage, int chunk, int step) {
  const int piece = piece_index(schedule.stages, stage, chunk) + step;
  if (piece < 0 || piece >= schedule.stages * schedule.chunks) return std::nullopt;
  return PipelinePiece{piece % schedule.stages, piece / schedule.stages};
}

}  // namespace

Schedule make_schedule(ScheduleKind kind, int stages, int micro_batches, int chunks) {
  check_sizes(kind, stages, micro_batches, chunks);
  Schedule schedule{kind, stages, chunks, micro_batches, std::vector<std::vector<Action>>(stages), {}};
  for (int stage = 0; stage < stages; ++stage) {
    std::vector<Action>& actions = schedule.actions[stage];
    switch (kind) {
      case ScheduleKind::GPipe: gpipe({actions}, micro_batches); break;
      case ScheduleKind::OneFOneB: one_f_one_b({actions}, stages, stage, micro_batches); break;
      case ScheduleKind::Interleaved: interleaved({actions}, stages, stage, micro_batches, chunks); break;
      case ScheduleKind::ZbH1: zb_h1({actions}, stages, stage, micro_batches); break;
    }
    const ActionKind release = kind == ScheduleKind::ZbH1 ? ActionKind::WeightGrad : ActionKind::Backward;
    schedule.slots.push_back(assign_slots(actions, chunks, release));
  }
  return schedule;
}

std::optional<PipelinePiece> receives_from(const Schedule& schedule, int stage, const Action& action) {
  if (action.kind == ActionKind::WeightGrad) return std::nullopt;
  return neighbour(schedule, stage, action.chunk, action.kind == ActionKind::Forward ? -1 : 1);
}

std::optional<PipelinePiece> sends_to(const Schedule& schedule, int stage, const Action& action) {
  if (action.kind == ActionKind::WeightGrad) return std::nullopt;
  return neighbour(schedule, stage, action.chunk, action.kind == ActionKind::Forward ? 1 : -1);
}

std::string to_text(const Action& action) {
  return fmt::format("{} of micro-batch {}, chunk {}", to_text(action.kind), action.micro_batch, action.chunk);
}

}  // namespace plimsoll
