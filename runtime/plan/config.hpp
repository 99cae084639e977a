#pragma once
// The memory section of a configuration. All sizes are bytes per rank.

#include <cstdint>
#include <optional>
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

}  // namespace plimsoll
