// The keys of the memory and the plan section.

#include "runtime/core/keys.hpp"
#include "runtime/plan/config.hpp"

namespace plimsoll {
namespace {

// One mode for all layers, or a list with one mode per layer.
void read_recompute(MemoryConfig& memory, const ConfigNode& node, const KeyScope& scope) {
  memory.recompute_layers.clear();
  if (node.kind != ConfigNode::Kind::List) {
    read_value(node, {}, scope, memory.recompute);
    return;
  }
  if (node.items.empty()) scope.fault(node, "the list is empty");
  for (const ConfigNode& item : node.items) {
    RecomputeMode& mode = memory.recompute_layers.emplace_back();
    if (read_value(item, {}, scope, mode) && mode == RecomputeMode::Auto) {
      scope.fault(item, "a layer's mode is none, full or selective");
    }
  }
}

ConfigNode write_recompute(const MemoryConfig& memory) {
  if (memory.recompute_layers.empty()) return write_value(memory.recompute);
  std::vector<ConfigNode> items;
  for (const RecomputeMode mode : memory.recompute_layers) items.push_back(write_value(mode));
  return ConfigNode::list(std::move(items));
}

}  // namespace

KeyTable<MemoryConfig> memory_keys() {
  using C = MemoryConfig;
  return {
      .keys = {
          bytes_key("budget", &C::budget, above(0), "most memory of a rank; auto: a share of what is free at start"),
          {"recompute", type_name(std::type_identity<RecomputeMode>{}) + " | list per layer", "", "",
           "activations made again in backward instead of kept; full: all but the input of a layer, selective: the "
           "attention core, auto: none",
           read_recompute, write_recompute},
          bytes_key("logits", &C::logits, above(0),
                    "most logits that exist at a time, at least one row; auto: up to 128 MiB within the budget"),
          bytes_key("reserve", &C::reserve, at_least(0),
                    "memory of a rank outside the arena, inside the budget; auto: measured"),
      }};
}

KeyTable<PlanConfig> plan_keys() {
  return {.keys = {
              key_or("off", std::optional<std::string>(""), "profile", &PlanConfig::profile, {}, "",
                     "file with the measured times of kernels, for predictions; auto: kept in the user's cache, off: "
                     "those of a description; comm.cluster goes before it"),
          }};
}

}  // namespace plimsoll
