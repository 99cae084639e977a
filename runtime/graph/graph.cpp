#include "runtime/graph/graph.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "runtime/tensor/checked_size.hpp"

namespace plimsoll {

std::string_view work_name(const Node& node) { return node.again ? "recompute" : phase_name(node.phase); }

ValueId Graph::find(std::string_view name) const {
  const auto at = named.find(name);
  require(at != named.end(), ErrorKind::Internal, "the graph has no value named '{}'", name);
  return at->second;
}

ValueId Graph::root(ValueId id) const {
  while ((*this)[id].base != kNoValue) id = (*this)[id].base;
  return id;
}

std::int64_t Graph::offset_in_root(ValueId id) const {
  std::int64_t offset = 0;
  for (; (*this)[id].base != kNoValue; id = (*this)[id].base) offset += (*this)[id].byte_offset;
  return offset;
}

SlotValues add_node(Graph& graph, OpId op, Attrs attrs, std::initializer_list<SlotInput> inputs, std::string label,
                    int layer) {
  const OpInfo& info = op_info(op);
  Node node;
  node.op = op;
  node.attrs = std::move(attrs);
  node.label = std::move(label);
  node.layer = layer;
  if (info.collective) node.stream = stream_of(axis_of(node));
  if (info.copies) node.stream = StreamKind::Copy;
  for (const SlotInput& in : inputs) {
    if (in.value == kNoValue) continue;
    node.value[static_cast<std::size_t>(in.slot)] = in.value;
    node.specs.set(in.slot, graph[in.value].spec);
  }
  info.infer(node.attrs, node.specs);
  for (std::size_t i = 0; i < info.slots.size(); ++i) {
    const Slot& slot = info.slots[i];
    const bool present = node.specs.has(static_cast<int>(i));
    require(present || slot.optional, ErrorKind::Internal, "{}: slot '{}' of {} is missing", node.label, slot.name,
            info.name);
    const bool made = slot.role == Role::Output || slot.role == Role::Stat;
    if (!made || !present || node.value[i] != kNoValue) continue;
    Value value;
    value.name = fmt::format("{}.{}", node.label, slot.name);
    if (layer >= 0) value.name = fmt::format("{}.{}", layer, value.name);
    value.spec = node.specs[static_cast<int>(i)];
    value.layer = layer;
    require_countable(value.spec, value.name);
    node.value[i] = graph.add_value(std::move(value));
  }
  graph.nodes.push_back(node);
  return graph.nodes.back().value;
}

namespace {

void visit_forward(const Node& node, const OpInfo& op, const std::function<void(const MemoryAccess&)>& visit) {
  for (std::size_t i = 0; i < op.slots.size(); ++i) {
    if (node.value[i] == kNoValue) continue;
    const Role role = op.slots[i].role;
    const bool writes = role == Role::Output || role == Role::Stat || role == Role::State;
    const bool adds = op.terminal && role == Role::Output && node.accumulate[i] != Accumulate::Never;
    visit({node.value[i], !writes || role == Role::State || node.accumulate[i] == Accumulate::Always, writes, adds});
  }
}

void visit_backward(const Node& node, const OpInfo& op, const std::function<void(const MemoryAccess&)>& visit) {
  for (std::size_t i = 0; i < op.slots.size(); ++i) {
    const Slot& slot = op.slots[i];
    if (node.value[i] != kNoValue) {
      const bool made_here = op.terminal && slot.role == Role::Output;
      visit({node.value[i], !made_here || node.accumulate[i] == Accumulate::Always,
             made_here || slot.role == Role::State, made_here && node.accumulate[i] != Accumulate::Never});
    }
    if (node.grad[i] == kNoValue) continue;
    const bool made = slot.role == Role::Input || slot.role == Role::Param ||
                      (slot.role == Role::Stat && node.phase == Phase::InputGrad);
    visit({node.grad[i], !made || node.accumulate[i] == Accumulate::Always, made,
           made && node.accumulate[i] != Accumulate::Never});
  }
}

}  // namespace

std::string_view axis_of(const Node& node) {
  return std::visit(
      [](const auto& a) -> std::string_view {
        if constexpr (requires { a.axis; })
          return a.axis;
        else
          return {};
      },
      node.attrs);
}

StreamKind stream_of(std::string_view axis) {
  return axis == "tensor" ? StreamKind::Tensor : StreamKind::Communication;
}

ValueId reduction_scratch(Graph& graph, std::string_view axis, std::int64_t bytes) {
  const std::string name = fmt::format("reduce.scratch.{}", stream_name(stream_of(axis)));
  if (const auto found = graph.named.find(name); found != graph.named.end()) return found->second;
  Value buffer;
  buffer.name = name;
  buffer.spec = {{bytes}, DType::u8};
  buffer.persistent = true;
  buffer.memory = MemoryClass::Communication;
  const ValueId id = graph.add_value(std::move(buffer));
  graph.named[name] = id;
  return id;
}

void for_each_access(const Graph&, const Node& node, const std::function<void(const MemoryAccess&)>& visit) {
  const OpInfo& op = op_info(node.op);
  const bool backward = node.phase == Phase::InputGrad || node.phase == Phase::WeightGrad;
  backward ? visit_backward(node, op, visit) : visit_forward(node, op, visit);
}

std::vector<OutsideUse> outside_uses(const Graph& graph) {
  std::vector<OutsideUse> uses;
  const auto add = [&](ValueId value, std::size_t chunk, Graph::Section section, bool writes) {
    if (value == kNoValue) return;
    uses.push_back({graph.root(value), static_cast<int>(chunk), section, writes});
  };
  for (std::size_t c = 0; c < graph.pieces.size(); ++c) {
    const PieceEnds& p = graph.pieces[c];
    add(p.input, c, Graph::Section::Forward, true);
    add(p.output, c, Graph::Section::Forward, false);
    add(p.output_grad, c, Graph::Section::Backward, true);
    add(p.input_grad, c, Graph::Section::Backward, false);
  }
  for (const char* name : {"tokens", "targets"}) {
    const auto found = graph.named.find(name);
    if (found == graph.named.end() || graph[found->second].persistent) continue;
    const auto reader = std::find_if(graph.nodes.begin(), graph.nodes.end(), [&](const Node& n) {
      return std::find(n.value.begin(), n.value.end(), found->second) != n.value.end();
    });
    if (reader != graph.nodes.end())
      add(found->second, static_cast<std::size_t>(reader->chunk), Graph::Section::Forward, true);
  }
  return uses;
}

void share_forward_memory(Graph& graph) {
  std::vector<std::size_t> last_access(graph.values.size(), 0);
  std::vector<std::size_t> first_write(graph.values.size(), graph.nodes.size());
  std::vector<bool> copied(graph.values.size(), false);  // what lies over it would wait for the copy
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    for_each_access(graph, graph.nodes[n], [&](const MemoryAccess& a) {
      const auto root = static_cast<std::size_t>(graph.root(a.value));
      last_access[root] = n;
      copied[root] = copied[root] || (a.reads && graph.nodes[n].stream == StreamKind::Copy);
      if (a.writes) first_write[root] = std::min(first_write[root], n);
    });
  }
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    const Node& node = graph.nodes[n];
    if (graph.section(n) != Graph::Section::Forward && !node.again) continue;
    const auto slots = op_info(node.op).slots;
    for (std::size_t i = 0; i < slots.size(); ++i) {
      if (slots[i].role != Role::Output || slots[i].over < 0 || node.value[i] == kNoValue) continue;
      const ValueId in = node.value[static_cast<std::size_t>(slots[i].over)];
      if (in == kNoValue) continue;
      const auto in_root = static_cast<std::size_t>(graph.root(in));
      Value& out = graph[node.value[i]];
      const bool free_now = last_access[in_root] == n && !copied[in_root] && !graph.values[in_root].persistent &&
                            graph[in].spec == out.spec;
      if (!free_now || out.base != kNoValue || out.persistent) continue;
      last_access[in_root] = last_access[static_cast<std::size_t>(node.value[i])];
      out.base = in;
    }
  }
}

void classify_memory(Graph& graph) {
  std::vector<bool> written_forward(graph.values.size(), false);
  for (const PieceEnds& p : graph.pieces) {
    if (p.input != kNoValue) written_forward[static_cast<std::size_t>(graph.root(p.input))] = true;
  }
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    for_each_access(graph, graph.nodes[n], [&](const MemoryAccess& a) {
      const ValueId root = graph.root(a.value);
      if (graph[root].persistent || graph[root].host) return;
      if (graph.section(n) == Graph::Section::Forward) {
        written_forward[static_cast<std::size_t>(root)] = true;
      } else if (written_forward[static_cast<std::size_t>(root)]) {
        graph[root].memory = MemoryClass::Activations;
      }
    });
  }
}

std::int64_t count_flops(const Graph& graph, std::initializer_list<Phase> phases) {
  std::int64_t total = 0;
  for (const Node& node : graph.nodes) {
    if (node.again) continue;
    if (std::find(phases.begin(), phases.end(), node.phase) == phases.end()) continue;
    total += op_info(node.op).flops(node.attrs, node.specs, node.phase);
  }
  return total;
}

}  // namespace plimsoll
