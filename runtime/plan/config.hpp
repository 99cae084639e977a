#pragma once
// The memory and the plan section of a configuration. All sizes are bytes per rank.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/core/keys_fwd.hpp"

namespace plimsoll {

enum class RecomputeMode { Auto, None, Full, Selective, Offload };
constexpr std::array<EnumName, 5> enum_names(RecomputeMode) {
  return {named(RecomputeMode::Auto, "auto"), named(RecomputeMode::None, "none"), named(RecomputeMode::Full, "full"),
          named(RecomputeMode::Selective, "selective"), named(RecomputeMode::Offload, "offload")};
}

// What one layer of a model recomputes: a mode, or with Auto all but the values of these names
// (runtime/graph/recompute.hpp), of which those of `offload` wait for backward in host memory
// (runtime/graph/offload.hpp). Its MLP runs in `rows` blocks of rows (runtime/graph/row_splits.hpp).
struct LayerRecompute {
  RecomputeMode mode = RecomputeMode::None;
  std::vector<std::string> keep, offload = {};
  std::int64_t rows = 1;
  bool operator==(const LayerRecompute&) const = default;
};

struct MemoryConfig {
  std::optional<std::int64_t> budget;  // nullopt: auto, a share of the memory measured free; of a list the least
  std::vector<std::int64_t> budgets;   // by rank of the shard axis, where ranks have other ones
  RecomputeMode recompute = RecomputeMode::Auto;
  // One per layer; empty: `recompute` says it for all. With Auto: what an earlier start of the run chose.
  std::vector<LayerRecompute> recompute_layers;
  bool row_splits = true;               // no key: auto may run MLPs in blocks of rows where nothing else fits
  std::optional<std::int64_t> logits;   // most bytes of logits that exist at a time; nullopt: auto, the plan chooses
  std::optional<std::int64_t> reserve;  // outside the arena; nullopt: auto, measured
  // What a rank may offload to; not part of `budget`. nullopt: auto, a share of what is free beside it.
  std::optional<std::int64_t> host_budget;
  bool operator==(const MemoryConfig&) const = default;
};

KeyTable<MemoryConfig> memory_keys();

// Where plans take the times of kernels of this machine from.
struct PlanConfig {
  std::optional<std::string> profile;  // a file; nullopt: auto, the one in the cache; empty: off, a description
  bool measured_links = true;          // no key: sizes of messages may follow from the links that the profile has
  bool operator==(const PlanConfig&) const = default;
};

KeyTable<PlanConfig> plan_keys();

}  // namespace plimsoll
