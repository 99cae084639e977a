#pragma once
// The memory plan: where every value of every program of a run lies in the one arena of its rank, and why it is that
// large.
//
// The arena is [step i/o | persistent values | step region]. Persistent values (parameters, gradients, optimizer state,
// caches, staged tokens) are shared by all programs; the step region holds what lives within a step, laid out for each
// program on its own, since programs never run at the same time: the arena is as large as the largest of them.
//
// Where a pipeline has several micro-batches in flight, the step region is [slots of chunk 0 | slots of chunk 1 | … |
// scratch]: what one action of the schedule leaves for another lies in the slot of its micro-batch, everything else in
// the scratch that all actions share.
//
// Offloaded values lie in a second arena, in host memory: [slots of chunk 0 | slots of chunk 1 | …] or one timeline.
// Its bytes are those of class Offloaded, and no part of total_bytes.

#include <array>
#include <string>
#include <vector>

#include "runtime/graph/graph.hpp"
#include "runtime/plan/schedule.hpp"

namespace plimsoll {

inline constexpr std::int64_t kArenaAlignment = 512;

using ClassBytes = std::array<std::int64_t, kMemoryClassNames.size()>;

struct PersistentRegion {
  std::string name;
  MemoryClass memory;
  std::int64_t offset, bytes;
};

// Something that is live at the peak of a program.
struct LiveItem {
  std::string name;  // of the value, or "workspace of <node>"
  MemoryClass memory;
  int layer;
  std::int64_t bytes;
  std::string made_by;  // op and label of the node that writes it first; empty for persistent values
};

// The slots of one chunk: `count` copies of one layout, one after another.
struct SlotRegion {
  int count = 1;
  std::int64_t offset = 0, bytes = 0;  // in the arena; of one slot
};

struct ProgramLayout {
  std::string name;                            // "train", "evaluate", "prefill", "decode"
  std::vector<std::int64_t> value_offset;      // by value, in its arena (slot 0); -1: the program does not touch it
  std::vector<std::int64_t> value_stride;      // by value: bytes from slot to slot; 0: not in a slot
  std::vector<SlotRegion> slots;               // by chunk; empty: one timeline for the whole step region
  std::vector<std::int64_t> workspace_offset;  // by node; -1: none
  std::vector<std::int64_t> workspace_bytes;
  std::int64_t step_bytes = 0;       // of the step region
  std::int64_t max_live_bytes = 0;   // lower bound of step_bytes (sizes rounded up to kArenaAlignment)
  std::string method;                // what found the offsets
  std::string peak_node;             // where the most is live
  std::vector<LiveItem> peak_items;  // live there, without persistent values, largest first
  ClassBytes peak_class_bytes{};
  std::vector<ClassBytes>
      live_class_bytes;  // by node: what is live there, without persistent values; slots all the time
  std::size_t backward_begin = 0, update_begin = 0;  // nodes of the program
  // Of the host arena, as above.
  std::vector<SlotRegion> host_slots;
  std::int64_t host_bytes = 0, host_max_live_bytes = 0;
  std::int64_t offloaded_bytes = 0;  // host_bytes without alignment, where most is live
  std::vector<LiveItem> host_items;  // live there, largest first
};

struct MemoryPlan {
  std::int64_t inputs_offset = 0, outputs_offset = 0;  // StepInputs, StepOutputs
  std::vector<PersistentRegion> persistent;
  std::int64_t persistent_bytes = 0;  // with step i/o: where the step region begins
  std::vector<ProgramLayout> programs;
  std::int64_t total_bytes = 0;  // of the arena
  // At the peak of the largest program. With `padding_bytes` (alignment, and step i/o) they add up to total_bytes; but
  // class Offloaded, with `host_padding_bytes`, is host_bytes.
  ClassBytes class_bytes{};
  std::int64_t padding_bytes = 0;
  std::int64_t host_bytes = 0;  // of the host arena; 0: there is none
  std::int64_t host_padding_bytes = 0;
  const ProgramLayout& program(std::string_view name) const;  // throws Error(Internal)
  const PersistentRegion& region(std::string_view name) const;
};

struct Program {
  std::string name;
  const Graph* graph;
  const Schedule* schedule = nullptr;  // of a pipeline: the program runs actions[stage]
  int stage = 0;
};

// `threads`: compute threads of the rank, which some workspaces depend on. `enough_bytes`: where only whether the plan
// has at most so many matters (OffsetOptions::enough); 0: it is the best.
MemoryPlan plan_memory(std::span<const Program> programs, int threads, std::int64_t enough_bytes = 0);

// Replays every program against the plan with the independent checker, those of a pipeline action by action: the first
// violation, or nullopt.
std::optional<std::string> check_memory(std::span<const Program> programs, const MemoryPlan& plan);

}  // namespace plimsoll
