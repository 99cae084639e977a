#pragma once
// The end of a run: summary.json, and the memory report that people read.

#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "launch/metrics.hpp"
#include "launch/step_times.hpp"
#include "parallel/mesh.hpp"
#include "runtime/plan/memory.hpp"

namespace plimsoll {

class Group;

struct RankSummary {
  int rank = 0;
  std::int64_t budget_bytes = 0, planned_bytes = 0;  // planned: of the arena
  std::int64_t arena_high_water_bytes = 0;           // measured from what was written
  // Peak of the process minus the arenas; on a device with memory of its own, the most that was seen between steps.
  std::int64_t outside_arena_bytes = 0;
  std::int64_t peak_process_bytes = 0;            // of the device's memory where it has its own
  bool device_memory = false;                     // it has; then what others take of it meanwhile is counted as ours
  std::int64_t allocations_after_first_step = 0;  // by ops, on their own thread
  // Sent by the training steps alone, by axis.
  std::array<std::int64_t, kMeshAxes.size()> collective_bytes{};
  std::int64_t padding_bytes = 0;
  // Planned; and measured from what kernels were handed (runtime/exec/memory_watch).
  ClassBytes class_bytes{}, measured_class_bytes{};
  // Of host memory, which is no part of the budget: its limit, and its arena.
  std::int64_t host_budget_bytes = 0, host_planned_bytes = 0, host_high_water_bytes = 0;
  // What was written and belongs to no class that was measured.
  std::int64_t measured_padding_bytes() const;
  // Is all that was measured of the arenas what was planned, to the byte?
  bool as_planned() const;
  // Of what the budget is for: the memory of the device.
  std::int64_t over_budget_bytes() const { return outside_arena_bytes + planned_bytes - budget_bytes; }
  RankTimes predicted, measured;  // measured: means of the steps after the first
};

struct StepTime {
  double seconds = 0;
  std::string source;  // of the times of kernels
};

struct RunSummary {
  StepMetrics last;
  std::optional<double> validation_loss;
  // Of this process, since it started or was resumed: steps with the time they took alone, and all of the time.
  std::int64_t steps = 0;
  double tokens = 0, gflop = 0, step_seconds = 0, wall_seconds = 0;
  // The rate that is 100 % MFU: of the fastest matrix product at start, or of a step that was faster still.
  double peak_gflops = 0;
  std::optional<std::int64_t> peak_step;
  bool peak_of_data_sheet = false;  // else measured
  StepTime predicted;
  double measured_step_s = 0;  // median of the steps after the first; 0: there was one only
  std::string checkpoint;      // the last one that was saved; empty: none
  std::vector<RankSummary> ranks;
};

// Every rank's summary, on every rank, in rank order.
std::vector<RankSummary> gather_summaries(const Group& control, const RankSummary& mine);

// Writes <run_dir>/summary.json (temp + rename). Error(CheckpointIo).
void write_summary(const RunSummary& summary, const std::string& run_dir);
// What was trained, how well and how fast: a few lines.
std::string run_report(const RunSummary& summary);
// Predicted and measured: a step, kernels and collectives; of every rank.
std::string times_report(const RunSummary& summary);
// What each rank sends in a step, by axis; empty where nothing is sent.
std::string volume_report(const RunSummary& summary);
// Planned and measured bytes per class, then budget, plan and what was measured of the whole.
std::string memory_report(const RunSummary& summary);
// How a run did not keep the contract: a line for each rank that was over its budget, or whose arenas were used in
// another way than planned.
std::vector<std::string> memory_faults(std::span<const RankSummary> ranks);
// Ends a run that did not keep it, after all was saved: Error(OutOfMemory) where a rank was over its budget, else
// Error(Internal), with the first few faults.
void check_memory_held(std::span<const RankSummary> ranks);

}  // namespace plimsoll
