#pragma once
// The parallel section of a configuration: the mesh and what is sharded over it.

#include <cstdint>
#include <optional>
#include <vector>

#include "runtime/core/keys_fwd.hpp"
#include "runtime/plan/schedule.hpp"

namespace plimsoll {

using PipelineSchedule = ScheduleKind;

inline constexpr std::int64_t kMostTensorChunks = 64;

struct ParallelConfig {
  bool automatic = false;            // `parallel: auto`: the layout planner chooses everything
  std::optional<std::int64_t> data;  // replicas; nullopt: auto, ranks / (pipeline * tensor)
  std::int64_t pipeline = 1;         // stages
  std::int64_t tensor = 1;
  std::optional<std::int64_t> zero;   // 0 to 3; nullopt: auto
  std::optional<std::int64_t> shard;  // ranks among which ZeRO divides, of the data axis; nullopt: all of them, …
  bool auto_shard = false;            // … or, `auto`, as links and memory ask for
  std::optional<bool> sequence;       // sequence parallelism over the tensor axis; nullopt: auto
  // Of a split linear and its collective, which overlap; nullopt: auto, by the links of comm.cluster or plan.profile.
  std::optional<std::int64_t> tensor_chunks = 1;
  PipelineSchedule schedule = PipelineSchedule::OneFOneB;
  std::int64_t interleave = 2;                      // pieces of the model on each stage, with schedule: interleaved
  std::optional<std::vector<std::int64_t>> stages;  // layers of each piece, in model order; nullopt: auto, cut by cost
  // Micro-batches of each replica in a step; empty: even, or `auto`, by the speed that is measured at the start.
  bool auto_shares = false;
  std::vector<std::int64_t> shares;
  // Of what ZeRO divides, by rank of the shard axis: weights; empty: even, or `auto`, by the memory that is free.
  bool auto_state_shares = false;
  std::vector<std::int64_t> state_shares;
  std::int64_t chunks() const { return schedule == PipelineSchedule::Interleaved ? interleave : 1; }
  bool operator==(const ParallelConfig&) const = default;
};

KeyTable<ParallelConfig> parallel_keys();

}  // namespace plimsoll
