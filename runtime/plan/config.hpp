#pragma once
// The memory and the plan section of a configuration. All sizes are bytes per rank.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/core/keys_fwd.hpp"

namespace plimsoll {

enum class RecomputeMode { Auto, None, Full, Selective };
constexpr std::array<EnumName, 4> enum_names(RecomputeMode) {
  return {named(RecomputeMode::Auto, "auto"), named(RecomputeMode::None, "none"), named(RecomputeMode::Full, "full"),
          named(RecomputeMode::Selective, "selective")};
}

struct MemoryConfig {
  std::optional<std::int64_t> budget;  // nullopt: auto, a share of the memory measured free
  RecomputeMode recompute = RecomputeMode::Auto;
  std::vector<RecomputeMode> recompute_layers;  // when not empty: one mode per layer, and `recompute` does not count
  std::optional<std::int64_t> logits;   // most bytes of logits that exist at a time; nullopt: auto, the plan chooses
  std::optional<std::int64_t> reserve;  // outside the arena; nullopt: auto, measured
  bool operator==(const MemoryConfig&) const = default;
};

KeyTable<MemoryConfig> memory_keys();

// Where plans take the times of kernels of this machine from.
struct PlanConfig {
  std::optional<std::string> profile;  // a file; nullopt: auto, the one in the cache; empty: off, a description
  bool operator==(const PlanConfig&) const = default;
};

KeyTable<PlanConfig> plan_keys();

}  // namespace plimsoll
