// The keys of the memory and the plan section.

#include <fmt/format.h>

#include <algorithm>

#include "runtime/core/keys.hpp"
#include "runtime/plan/config.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kMostRowBlocks = 1024;
constexpr const char* kLayerAsMap = "{keep: [values], offload: [values], rows: blocks} or {mode: full, rows: blocks}";

void read_mode(LayerRecompute& layer, const ConfigNode& item, const KeyScope& scope) {
  if (read_value(item, {}, scope, layer.mode) && layer.mode == RecomputeMode::Auto)
    scope.fault(item, fmt::format("a layer's mode is none, full, selective, offload or {}", kLayerAsMap));
}

// A mode, or a map: see kLayerAsMap.
void read_layer(LayerRecompute& layer, const ConfigNode& item, const KeyScope& scope) {
  if (item.kind != ConfigNode::Kind::Map) return read_mode(layer, item, scope);
  layer.mode = RecomputeMode::Auto;
  bool mode = false, names = false;
  for (const auto& entry : item.entries) {
    if (entry.key == "rows") {
      read_value(entry.value, between(1, kMostRowBlocks), scope, layer.rows);
    } else if (entry.key == "mode") {
      read_mode(layer, entry.value, scope);
      mode = true;
    } else if (entry.key == "keep" || entry.key == "offload") {
      if (!expect_list(entry.value, scope)) return;
      std::vector<std::string>& list = entry.key == "keep" ? layer.keep : layer.offload;
      for (const ConfigNode& value : entry.value.items) read_value(value, {}, scope, list.emplace_back());
      names = true;
    } else {
      scope.fault(item, fmt::format("a layer as a map is {}", kLayerAsMap));
      return;
    }
  }
  if (mode ? names : !names && !item.entries.empty())
    scope.fault(item, fmt::format("a layer as a map is {}", kLayerAsMap));
}

// One mode for all layers, or a list with an entry per layer.
void read_recompute(MemoryConfig& memory, const ConfigNode& node, const KeyScope& scope) {
  memory.recompute_layers.clear();
  if (node.kind != ConfigNode::Kind::List) {
    read_value(node, {}, scope, memory.recompute);
    return;
  }
  memory.recompute = RecomputeMode::None;
  if (node.items.empty()) scope.fault(node, "the list is empty");
  for (const ConfigNode& item : node.items) read_layer(memory.recompute_layers.emplace_back(), item, scope);
}

ConfigNode write_layer(const LayerRecompute& layer) {
  const bool by_name = layer.mode == RecomputeMode::Auto;
  if (!by_name && layer.rows == 1) return write_value(layer.mode);
  ConfigNode node;
  node.kind = ConfigNode::Kind::Map;
  const auto add = [&](const char* key, const std::vector<std::string>& names) {
    std::vector<ConfigNode> values;
    for (const std::string& name : names) values.push_back(write_value(name));
    node.entries.push_back({key, {}, ConfigNode::list(std::move(values))});
  };
  if (by_name) add("keep", layer.keep);
  if (!by_name) node.entries.push_back({"mode", {}, write_value(layer.mode)});
  if (!layer.offload.empty()) add("offload", layer.offload);
  if (layer.rows > 1) node.entries.push_back({"rows", {}, write_value(layer.rows)});
  return node;
}

ConfigNode write_recompute(const MemoryConfig& memory) {
  if (memory.recompute_layers.empty()) return write_value(memory.recompute);
  std::vector<ConfigNode> items;
  for (const LayerRecompute& layer : memory.recompute_layers) items.push_back(write_layer(layer));
  return ConfigNode::list(std::move(items));
}

// One size for all ranks, or a list.
void read_budget(MemoryConfig& memory, const ConfigNode& node, const KeyScope& scope) {
  memory.budgets.clear();
  if (node.kind != ConfigNode::Kind::List) {
    read_bytes(node, above(0), scope, memory.budget);
    return;
  }
  memory.budget.reset();
  if (node.items.empty()) scope.fault(node, "the list is empty");
  for (const ConfigNode& item : node.items) {
    std::optional<std::int64_t> bytes;
    if (!read_bytes(item, above(0), scope, bytes)) continue;
    if (!bytes) scope.fault(item, "an entry of the list is a size");
    memory.budgets.push_back(bytes.value_or(0));
    memory.budget = std::min(memory.budget.value_or(memory.budgets.back()), memory.budgets.back());
  }
}

ConfigNode write_budget(const MemoryConfig& memory) {
  if (memory.budgets.empty()) return write_bytes(memory.budget);
  std::vector<ConfigNode> items;
  for (const std::int64_t bytes : memory.budgets) items.push_back(write_bytes(bytes));
  return ConfigNode::list(std::move(items));
}

}  // namespace

KeyTable<MemoryConfig> memory_keys() {
  using C = MemoryConfig;
  return {
      .keys = {
          {"budget", "auto | size | list of sizes", "bytes", above(0).text(),
           "most memory of a rank; auto: a share of what is free on it at start, a list: of each rank of the shard "
           "axis",
           read_budget, write_budget},
          {"recompute", type_name(std::type_identity<RecomputeMode>{}) + " | list per layer", "", "",
           "activations made again in backward instead of kept; full: all but the input of a layer, selective: the "
           "attention core, offload: they wait in host memory, a layer's {keep: [values], offload: [values]}: all "
           "others, auto: what costs least of what fits memory.budget; it offloads only where memory.host_budget is "
           "given. A layer's rows: its MLP, made again, runs in so many blocks of rows, whose sums are taken in "
           "another order (equal to 1e-6); auto does so where nothing else fits",
           read_recompute, write_recompute},
          bytes_key(
              "logits", &C::logits, above(0),
              "most logits that exist at a time, at least one row; auto: up to 128 MiB within the budget. How the rows "
              "are cut decides the order of sums: give a size where runs under several budgets must be equal bit "
              "for bit"),
          bytes_key("reserve", &C::reserve, at_least(0),
                    "memory of a rank outside the arena, inside the budget: at least what is there at start and three "
                    "quarters of the room that auto adds, which measures it"),
          bytes_key("host_budget", &C::host_budget, at_least(0),
                    "most host memory of a rank for what it offloads, beside the budget; auto: a share of what is free "
                    "beside it at start"),
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
