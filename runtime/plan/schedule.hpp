#pragma once
// Pipeline schedules as data: for every stage the list of actions it runs in one step, in order. Nothing here computes
// or communicates: the program builder, the simulator and the chart read the same lists.
//
// The model is cut into stages × chunks pieces; stage s holds the pieces s, s + stages, s + 2·stages, … as its chunks
// 0, 1, 2, … (one chunk each unless interleaved). A piece sends its output to the piece behind it and the gradient of
// its input to the piece before it. Sends are asynchronous, receives block.
//
// In every schedule, gradients of a piece are added up micro-batch by micro-batch in rising order, so all schedules of
// a mesh give the same bits.

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "runtime/core/keys_fwd.hpp"

namespace plimsoll {

enum class ScheduleKind { GPipe, OneFOneB, Interleaved, ZbH1 };
constexpr std::array<EnumName, 4> enum_names(ScheduleKind) {
  return {named(ScheduleKind::GPipe, "gpipe"), named(ScheduleKind::OneFOneB, "1f1b"),
          named(ScheduleKind::Interleaved, "interleaved"), named(ScheduleKind::ZbH1, "zb-h1")};
}

// Backward is InputGrad and WeightGrad in one; a schedule has either the one or the other two.
enum class ActionKind { Forward, Backward, InputGrad, WeightGrad };
constexpr std::array<EnumName, 4> enum_names(ActionKind) {
  return {named(ActionKind::Forward, "forward"), named(ActionKind::Backward, "backward"),
          named(ActionKind::InputGrad, "input gradient"), named(ActionKind::WeightGrad, "weight gradient")};
}

struct Action {
  ActionKind kind;
  int chunk;  // of this stage
  int micro_batch;
  int slot;  // of this stage and chunk: where Forward keeps what the others of this micro-batch read
  bool operator==(const Action&) const = default;
};

struct Schedule {
  ScheduleKind kind;
  int stages;
  int chunks;  // per stage
  int micro_batches;
  std::vector<std::vector<Action>> actions;  // [stage]
  std::vector<std::vector<int>> slots;       // [stage][chunk]: activation slots, the most that are in flight
};

// Throws Error(Config) on sizes below 1, on several chunks where the kind is not Interleaved, on fewer than two where
// it is, and on interleaved micro-batches that the stages do not divide.
//   GPipe        all forwards, then all backwards (Huang et al. 2019; here in rising order); m slots.
//   OneFOneB     PipeDream-Flush (Narayanan et al. 2021): stage s has min(m, p - s) slots.
//   Interleaved  the order of Megatron-LM (Narayanan et al. 2021, section 2.2).
//   ZbH1         Qi et al. 2023, section 2.2: weight gradients s micro-batches late on stage s, which fills the tail;
//                min(m, p) slots on every stage, so no more than the first stage of 1F1B.
Schedule make_schedule(ScheduleKind kind, int stages, int micro_batches, int chunks = 1);

// Index of a piece in the order of the model: chunk · stages + stage.
inline int piece_index(int stages, int stage, int chunk) { return chunk * stages + stage; }

// A piece of the model by the stage that holds it.
struct PipelinePiece {
  int stage, chunk;
  bool operator==(const PipelinePiece&) const = default;
};
// Whose message an action on `stage` waits for, and to whom it sends its result; the message belongs to the same
// micro-batch, and to a Forward if the action is one. nullopt: none (the ends of the model, weight gradients).
std::optional<PipelinePiece> receives_from(const Schedule& schedule, int stage, const Action& action);
std::optional<PipelinePiece> sends_to(const Schedule& schedule, int stage, const Action& action);

// "forward of micro-batch 3, chunk 1"
std::string to_text(const Action& action);

}  // namespace plimsoll
