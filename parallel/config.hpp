#pragma once
// The parallel section of a configuration: the mesh and what is sharded over it.

#include <cstdint>
#include <optional>

#include "runtime/core/keys_fwd.hpp"

namespace plimsoll {

enum class PipelineSchedule { GPipe, OneFOneB, Interleaved, ZbH1 };
constexpr std::array<EnumName, 4> enum_names(PipelineSchedule) {
  return {named(PipelineSchedule::GPipe, "gpipe"), named(PipelineSchedule::OneFOneB, "1f1b"),
          named(PipelineSchedule::Interleaved, "interleaved"), named(PipelineSchedule::ZbH1, "zb-h1")};
}

struct ParallelConfig {
  bool automatic = false;            // `parallel: auto`: the layout planner chooses everything
  std::optional<std::int64_t> data;  // replicas; nullopt: auto, ranks / (pipeline * tensor)
  std::int64_t pipeline = 1;         // stages
  std::int64_t tensor = 1;
  std::optional<std::int64_t> zero;  // 0 to 3; nullopt: auto
  std::optional<bool> sequence;      // sequence parallelism over the tensor axis; nullopt: auto
  PipelineSchedule schedule = PipelineSchedule::OneFOneB;
  bool operator==(const ParallelConfig&) const = default;
};

KeyTable<ParallelConfig> parallel_keys();

}  // namespace plimsoll
