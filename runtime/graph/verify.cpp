#include "runtime/graph/graph.hpp"

namespace plimsoll {
namespace {

std::string node_name(const Graph& graph, std::size_t n) {
  const Node& node = graph.nodes[n];
  return fmt::format("node {} ({} {} '{}')", n, op_info(node.op).name, work_name(node), node.label);
}

std::optional<std::string> check_values(const Graph& graph) {
  for (const Value& v : graph.values) {
    if (v.spec.elements() < (v.spec.shape.rank() == 1 ? 0 : 1))
      return fmt::format("value '{}' is empty: {}", v.name, to_string(v.spec));
    if (v.base == kNoValue) continue;
    const Value& base = graph[v.base];
    if (v.byte_offset < 0 || v.byte_offset + v.spec.bytes() > base.spec.bytes()) {
      return fmt::format("value '{}' does not lie inside '{}'", v.name, base.name);
    }
  }
  return std::nullopt;
}

std::optional<std::string> check_node(const Graph& graph, std::size_t n) {
  const Node& node = graph.nodes[n];
  const auto slots = op_info(node.op).slots;
  const int host_slot = node.op == op_id<ToHost> ? ToHost::kY : node.op == op_id<FromHost> ? FromHost::kX : -1;
  for (std::size_t i = 0; i < static_cast<std::size_t>(kMaxSlots); ++i) {
    for (const bool gradient : {false, true}) {
      const ValueId id = gradient ? node.grad[i] : node.value[i];
      if (id == kNoValue) continue;
      if (i >= slots.size()) return fmt::format("{}: has no slot {}", node_name(graph, n), i);
      if (id < 0 || id >= static_cast<ValueId>(graph.values.size()))
        return fmt::format("{}: bad value", node_name(graph, n));
      if (graph[graph.root(id)].host != (static_cast<int>(i) == host_slot)) {
        return fmt::format("{}: slot '{}' is '{}', which is {} host memory", node_name(graph, n), slots[i].name,
                           graph[id].name, host_slot == static_cast<int>(i) ? "not in" : "in");
      }
      const TensorSpec& declared = node.specs[static_cast<int>(i)];
      const TensorSpec spec = gradient ? gradient_spec(slots[i], declared) : declared;
      if (graph[id].spec != spec) {
        return fmt::format("{}: {}slot '{}' is {} but value '{}' is {}", node_name(graph, n),
                           gradient ? "the gradient of " : "", slots[i].name, to_string(spec), graph[id].name,
                           to_string(graph[id].spec));
      }
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> verify(const Graph& graph) {
  if (auto bad = check_values(graph)) return bad;
  std::vector<bool> written(graph.values.size(), false);
  for (const OutsideUse& use : outside_uses(graph)) {
    if (use.writes) written[static_cast<std::size_t>(use.value)] = true;
  }
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    if (auto bad = check_node(graph, n)) return bad;
    std::optional<std::string> bad;
    const auto check_read = [&](const MemoryAccess& a) {
      const ValueId root = graph.root(a.value);
      const bool ready = graph[root].persistent || written[static_cast<std::size_t>(root)];
      if (a.reads && !ready && !bad) {
        bad = fmt::format("{}: reads '{}' before it is written", node_name(graph, n), graph[a.value].name);
      }
    };
    for_each_access(graph, graph.nodes[n], check_read);
    if (bad) return bad;
    for_each_access(graph, graph.nodes[n], [&](const MemoryAccess& a) {
      if (a.writes) written[static_cast<std::size_t>(graph.root(a.value))] = true;
    });
  }
  return std::nullopt;
}

}  // namespace plimsoll
