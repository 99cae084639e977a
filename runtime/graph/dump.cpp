#include <set>

#include "runtime/graph/graph.hpp"

namespace plimsoll {
namespace {

std::string_view section_name(Graph::Section s) {
  constexpr std::array<std::string_view, 3> names{"forward", "backward", "update"};
  return names[static_cast<std::size_t>(s)];
}

std::string slot_text(const Graph& graph, std::string_view slot, ValueId id, Accumulate accumulate) {
  const Value& v = graph[id];
  constexpr std::array<std::string_view, 3> marks{"", " (+= after the first)", " (+=)"};
  const ValueId root = graph.root(id);
  const std::string shared = root == id ? "" : fmt::format(" in {}", graph[root].name);
  return fmt::format("{}={} {}{}{}", slot, v.name, to_string(v.spec), shared,
                     marks[static_cast<std::size_t>(accumulate)]);
}

std::string when_text(std::uint8_t when) {
  if (when == kEveryVariant) return "";
  return when == kFinalVariants ? " [last micro-batch]" : fmt::format(" [variants {}]", when);
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

}  // namespace

std::string dump_text(const Graph& graph) {
  std::string out;
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    const Node& node = graph.nodes[n];
    if (n == 0 || graph.section(n) != graph.section(n - 1))
      out += fmt::format("# {}\n", section_name(graph.section(n)));
    const OpInfo& op = op_info(node.op);
    out += fmt::format("{:4} {:>3} {:11} {:16} {}{}\n", n, node.layer >= 0 ? std::to_string(node.layer) : "",
                       work_name(node), op.name, node.label, when_text(node.when));
    std::string reads, writes;
    for (std::size_t i = 0; i < op.slots.size(); ++i) {
      for (const bool is_grad : {false, true}) {
        const ValueId id = is_grad ? node.grad[i] : node.value[i];
        if (id == kNoValue) continue;
        bool wrote = false;
        for_each_access(graph, node, [&](const MemoryAccess& a) { wrote = wrote || (a.value == id && a.writes); });
        const std::string name = is_grad ? fmt::format("d{}", op.slots[i].name) : std::string(op.slots[i].name);
        (wrote ? writes : reads) +=
            fmt::format("           {} {}\n", wrote ? "->" : "<-", slot_text(graph, name, id, node.accumulate[i]));
      }
    }
    out += reads + writes;
  }
  return out;
}

std::string dump_graphviz(const Graph& graph) {
  std::string out = "digraph plimsoll {\n  rankdir=TB; node [shape=box, fontsize=10];\n";
  std::vector<std::ptrdiff_t> writer(graph.values.size(), -1);
  std::set<ValueId> shown;
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    const Node& node = graph.nodes[n];
    constexpr std::array<std::string_view, 3> colours{"lightblue", "lightyellow", "lightgrey"};
    out += fmt::format("  n{} [style=filled, fillcolor={}, label={}];\n", n,
                       colours[static_cast<std::size_t>(graph.section(n))],
                       quoted(fmt::format("{} {}{}", op_info(node.op).name,
                                          node.layer >= 0 ? fmt::format("{}.", node.layer) : "", node.label)));
    for_each_access(graph, node, [&](const MemoryAccess& a) {
      const auto root = static_cast<std::size_t>(graph.root(a.value));
      if (a.reads && writer[root] >= 0) {
        out += fmt::format("  n{} -> n{} [label={}, fontsize=8];\n", writer[root], n,
                           quoted(to_string(graph[a.value].spec)));
      } else if (a.reads && graph.values[root].persistent) {
        // By value: parameters that lie in one buffer are nodes of their own.
        if (shown.insert(a.value).second)
          out += fmt::format("  v{} [shape=ellipse, label={}];\n", a.value, quoted(graph[a.value].name));
        out += fmt::format("  v{} -> n{};\n", a.value, n);
      }
    });
    for_each_access(graph, node, [&](const MemoryAccess& a) {
      if (a.writes) writer[static_cast<std::size_t>(graph.root(a.value))] = static_cast<std::ptrdiff_t>(n);
    });
  }
  return out + "}\n";
}

}  // namespace plimsoll
