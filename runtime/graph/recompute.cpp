#include "runtime/graph/recompute.hpp"

#include <algorithm>
#include <set>

namespace plimsoll {
namespace {

constexpr std::ptrdiff_t kNowhere = -1;

std::size_t index(ValueId v) { return static_cast<std::size_t>(v); }

bool made_by(const Slot& slot) { return slot.role == Role::Output || slot.role == Role::Stat; }

// The forward node that makes each value; kNowhere for what comes from elsewhere.
std::vector<std::ptrdiff_t> forward_makers(const Graph& graph) {
  std::vector<std::ptrdiff_t> maker(graph.values.size(), kNowhere);
  for (std::size_t n = 0; n < std::min(graph.nodes.size(), graph.backward_begin); ++n) {
    const auto slots = op_info(graph.nodes[n].op).slots;
    for (std::size_t s = 0; s < slots.size(); ++s) {
      const ValueId v = graph.nodes[n].value[s];
      if (v != kNoValue && made_by(slots[s])) maker[index(v)] = static_cast<std::ptrdiff_t>(n);
    }
  }
  return maker;
}

std::vector<ValueId> inputs_of(const Graph& graph, const Node& node) {
  std::vector<ValueId> inputs;
  const auto slots = op_info(node.op).slots;
  for (std::size_t s = 0; s < slots.size(); ++s) {
    const ValueId v = node.value[s];
    if (v != kNoValue && !made_by(slots[s]) && !graph[graph.root(v)].persistent) inputs.push_back(v);
  }
  return inputs;
}

ValueId again_from(const Node& node) {
  const int from = op_info(node.op).again_from;
  return from < 0 ? kNoValue : node.value[static_cast<std::size_t>(from)];
}

class Recomputer {
 public:
  Recomputer(Graph& graph, const KeepSets& keep) : graph_(graph), maker_(forward_makers(graph)) {
    dropped_.assign(graph.values.size(), false);
    for (std::size_t v = 0; v < dropped_.size(); ++v) dropped_[v] = maker_[v] != kNowhere && keep.contains(layer(v));
    for (const auto& [layer_number, kept] : keep) {
      for (const ValueId v : kept) {
        require(maker_[index(v)] != kNowhere && layer(index(v)) == layer_number, ErrorKind::Internal,
                "'{}' is not made by layer {}", graph[v].name, layer_number);
        dropped_[index(v)] = false;
      }
    }
    for (std::vector<ValueId>& half : copy_) half.assign(dropped_.size(), kNoValue);
  }

  void run() {
    nodes_.reserve(graph_.nodes.size() + graph_.backward_begin);
    nodes_.assign(graph_.nodes.begin(), graph_.nodes.begin() + static_cast<std::ptrdiff_t>(graph_.backward_begin));
    for (std::size_t n = graph_.backward_begin; n < graph_.update_begin; ++n) {
      Node node = graph_.nodes[n];
      if (node.late) read_late_.insert(node.value.begin(), node.value.end());
      for (ValueId& value : node.value) {
        if (value != kNoValue) value = available(value, node);
      }
      nodes_.push_back(std::move(node));
    }
    const std::size_t update_begin = nodes_.size();
    nodes_.insert(nodes_.end(), graph_.nodes.begin() + static_cast<std::ptrdiff_t>(graph_.update_begin),
                  graph_.nodes.end());
    graph_.update_begin = update_begin;
    graph_.nodes = std::move(nodes_);
  }

 private:
  int layer(std::size_t value) const { return graph_.nodes[static_cast<std::size_t>(maker_[value])].layer; }

  // `value` where a node of backward may read it: itself, or its copy, which is made now if need be.
  ValueId available(ValueId value, const Node& reader) {
    if (index(value) >= dropped_.size() || !dropped_[index(value)]) return value;
    std::vector<ValueId>& copies = copy_[reader.late ? 1 : 0];
    if (copies[index(value)] == kNoValue && reader.late && copy_[0][index(value)] != kNoValue) {
      std::set<ValueId> held;
      if (bytes_held(value, held) >= graph_[value].spec.bytes()) copies[index(value)] = copy_[0][index(value)];
    }
    if (copies[index(value)] == kNoValue)
      make(graph_.nodes[static_cast<std::size_t>(maker_[index(value)])], value, reader);
    return copies[index(value)];
  }

  // Kept values that would stay for the second half of backward, only to make `value` again there.
  std::int64_t bytes_held(ValueId value, std::set<ValueId>& held) const {
    if (!held.insert(value).second || copy_[1][index(value)] != kNoValue) return 0;
    if (!dropped_[index(value)]) return read_late_.contains(value) ? 0 : graph_[value].spec.bytes();
    const Node& forward = graph_.nodes[static_cast<std::size_t>(maker_[index(value)])];
    if (takes_shortcut(forward, value)) return bytes_held(again_from(forward), held);
    std::int64_t bytes = 0;
    for (const ValueId input : inputs_of(graph_, forward)) bytes += bytes_held(input, held);
    return bytes;
  }

  bool takes_shortcut(const Node& forward, ValueId wanted) const {
    const ValueId from = again_from(forward);
    return from != kNoValue && from != wanted && !dropped_[index(from)];
  }

  void make(const Node& forward, ValueId wanted, const Node& reader) {
    const bool shortcut = takes_shortcut(forward, wanted);
    Node node = shortcut ? again_node(forward) : forward;
    const auto slots = op_info(node.op).slots;
    for (std::size_t s = 0; s < slots.size(); ++s) {
      if (node.value[s] == kNoValue) continue;
      node.value[s] = made_by(slots[s]) ? fresh_copy(node.value[s], reader) : available(node.value[s], reader);
    }
    node.again = true;
    node.late = reader.late;
    if (node.late) read_late_.insert(node.value.begin(), node.value.end());
    nodes_.push_back(std::move(node));
  }

  ValueId fresh_copy(ValueId of, const Node& reader) {
    Value value;
    value.name = graph_[of].name + ".again";
    value.spec = graph_[of].spec;
    value.layer = graph_[of].layer;
    return copy_[reader.late ? 1 : 0][index(of)] = graph_.add_value(std::move(value));
  }

  Graph& graph_;
  std::vector<std::ptrdiff_t> maker_;
  std::vector<bool> dropped_;  // by value that was there before
  // In the two halves of backward. One for both fills the slot from the first to the second; a second one holds what it
  // is made from until then: whichever is less.
  std::array<std::vector<ValueId>, 2> copy_;
  std::set<ValueId> read_late_;  // in the second half, as far as is known
  std::vector<Node> nodes_;
};

}  // namespace

// With the values of `forward`, which has the same names for them.
Node again_node(const Node& forward) {
  const OpInfo& old = op_info(forward.op);
  const ValueId from = again_from(forward);
  Node node = forward;
  node.attrs = old.again(forward.attrs);
  node.op = static_cast<OpId>(node.attrs.index());
  node.value.fill(kNoValue);
  node.specs = {};
  const auto slots = op_info(node.op).slots;
  for (std::size_t s = 0; s < slots.size(); ++s) {
    for (std::size_t o = 0; o < old.slots.size(); ++o) {
      const bool input = slots[s].name == "x";
      if (input ? forward.value[o] != from : old.slots[o].name != slots[s].name) continue;
      if (forward.value[o] == kNoValue) continue;
      node.value[s] = forward.value[o];
      node.specs.set(static_cast<int>(s), forward.specs[static_cast<int>(o)]);
    }
  }
  return node;
}

LayerValues recomputable_values(const Graph& graph) {
  const std::vector<std::ptrdiff_t> maker = forward_makers(graph);
  const auto layer_of = [&](ValueId v) {
    return maker[index(v)] == kNowhere ? -1 : graph.nodes[static_cast<std::size_t>(maker[index(v)])].layer;
  };
  // Reads what another layer makes: then this node's reduced form is the boundary, or else what it reads.
  const auto crosses = [&](const Node& node) {
    const std::vector<ValueId> inputs = inputs_of(graph, node);
    return std::any_of(inputs.begin(), inputs.end(), [&](ValueId v) {
      const int from = layer_of(v);
      return from >= 0 && from != node.layer;
    });
  };
  std::vector<bool> in_backward(graph.values.size(), false), elsewhere = in_backward;
  for (std::size_t n = 0; n < std::min(graph.nodes.size(), graph.update_begin); ++n) {
    const Node& node = graph.nodes[n];
    const bool forward = n < graph.backward_begin;
    const bool other = forward && node.layer >= 0 && again_from(node) == kNoValue;
    for (const ValueId v : node.value) {
      if (v == kNoValue) continue;
      if (!forward) in_backward[index(v)] = true;
      if (other && layer_of(v) != node.layer) elsewhere[index(v)] = true;
    }
  }
  LayerValues values;
  for (std::size_t n = 0; n < std::min(graph.nodes.size(), graph.backward_begin); ++n) {
    const Node& node = graph.nodes[n];
    const auto slots = op_info(node.op).slots;
    for (std::size_t s = 0; s < slots.size() && node.layer >= 0; ++s) {
      const ValueId v = node.value[s];
      if (v == kNoValue || !made_by(slots[s])) continue;
      RecomputableValue r{v,     graph[v].name,         graph[v].spec.bytes(), n, in_backward[index(v)],
                          false, inputs_of(graph, node)};
      if (const std::string prefix = fmt::format("{}.", node.layer); r.name.starts_with(prefix))
        r.name.erase(0, prefix.size());
      if (const ValueId from = again_from(node); from != v) r.again_from = from;
      r.boundary = elsewhere[index(v)] || (v == again_from(node) && crosses(node));
      values[node.layer].push_back(std::move(r));
    }
  }
  return values;
}

std::vector<RecomputableValue> recomputable_values(const Graph& graph, int layer) {
  return recomputable_values(graph)[layer];
}

void recompute(Graph& graph, const KeepSets& keep) {
  require(graph.backward_begin <= graph.update_begin && graph.update_begin <= graph.nodes.size(), ErrorKind::Internal,
          "recompute needs a graph with backward");
  if (!keep.empty()) Recomputer(graph, keep).run();
}

std::vector<int> layers_of(const Graph& graph) {
  std::vector<int> layers;
  for (std::size_t n = 0; n < std::min(graph.nodes.size(), graph.backward_begin); ++n) {
    const int layer = graph.nodes[n].layer;
    if (layer >= 0 && std::find(layers.begin(), layers.end(), layer) == layers.end()) layers.push_back(layer);
  }
  return layers;
}

std::vector<ValueId> kept_values(const Graph& graph, std::span<const RecomputableValue> values, RecomputeMode mode) {
  require(mode != RecomputeMode::Auto, ErrorKind::Internal, "auto is not a mode of a layer");
  std::vector<ValueId> kept;
  for (const RecomputableValue& v : values) {
    const bool core = graph.nodes[v.node].op == op_id<Attention>;
    if (mode == RecomputeMode::Full ? v.boundary : mode != RecomputeMode::Selective || !core) kept.push_back(v.value);
  }
  return kept;
}

std::vector<ValueId> values_named(std::span<const RecomputableValue> values, std::span<const std::string> names) {
  std::vector<ValueId> found;
  for (const std::string& name : names) {
    const auto at =
        std::find_if(values.begin(), values.end(), [&](const RecomputableValue& v) { return v.name == name; });
    require(at != values.end(), ErrorKind::Internal, "the layer makes no '{}' that could be kept", name);
    found.push_back(at->value);
  }
  return found;
}

KeepSets keep_sets(const Graph& graph, std::span<const LayerRecompute> layers) {
  KeepSets keep;
  if (layers.empty()) return keep;
  for (const auto& [layer, values] : recomputable_values(graph)) {
    const LayerRecompute& wanted = layers[static_cast<std::size_t>(layer)];
    if (wanted.mode == RecomputeMode::None || wanted.mode == RecomputeMode::Offload) continue;
    std::vector<ValueId>& kept = keep[layer];
    if (wanted.mode != RecomputeMode::Auto) {
      kept = kept_values(graph, values, wanted.mode);
      continue;
    }
    kept = values_named(values, wanted.keep);
    const std::vector<ValueId> sent = values_named(values, wanted.offload);
    kept.insert(kept.end(), sent.begin(), sent.end());
  }
  return keep;
}

std::optional<std::string> keep_fault(const Graph& graph, std::span<const LayerRecompute> layers) {
  if (layers.empty()) return std::nullopt;
  for (const auto& [layer, values] : recomputable_values(graph)) {
    const LayerRecompute& wanted = layers[static_cast<std::size_t>(layer)];
    if (wanted.mode != RecomputeMode::Auto) continue;
    std::vector<std::string> names;
    for (const RecomputableValue& v : values) names.push_back(v.name);
    for (const auto* list : {&wanted.keep, &wanted.offload}) {
      for (const std::string& name : *list) {
        if (std::find(names.begin(), names.end(), name) == names.end())
          return fmt::format("layer {} makes no '{}' that could be kept, only {}", layer, name, fmt::join(names, ", "));
      }
    }
  }
  return std::nullopt;
}

std::int64_t recompute_flops(const Graph& graph) {
  std::int64_t total = 0;
  for (const Node& node : graph.nodes) {
    if (node.again) total += op_info(node.op).flops(node.attrs, node.specs, Phase::Forward);
  }
  return total;
}

}  // namespace plimsoll
