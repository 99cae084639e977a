#include "runtime/graph/offload.hpp"

#include <algorithm>

namespace plimsoll {
namespace {

std::size_t index(ValueId v) { return static_cast<std::size_t>(v); }

bool made_by(const Slot& slot) { return slot.role == Role::Output || slot.role == Role::Stat; }

class Offloader {
 public:
  Offloader(Graph& graph, std::span<const ValueId> values, int ahead) : graph_(graph), ahead_(ahead) {
    sent_.assign(graph.values.size(), false);
    made_ = sent_;
    leaves_after_.assign(graph.values.size(), graph.nodes.size());
    for (const ValueId v : values) sent_[index(v)] = true;
    host_.assign(graph.values.size(), kNoValue);
    before_.resize(graph.nodes.size() + 1);
    after_.resize(graph.nodes.size());
    for (std::vector<ValueId>& half : back_) half.assign(graph.values.size(), kNoValue);
  }

  void run(std::span<const ValueId> values) {
    for (std::size_t n = graph_.backward_begin; n-- > 0;) find_departures(n);
    for (const ValueId v : values)
      require(made_[index(v)], ErrorKind::Internal, "'{}' is not made in forward", graph_[v].name);
    for (std::size_t n = graph_.backward_begin; n < graph_.update_begin; ++n) {
      for (ValueId& value : graph_.nodes[n].value) {
        if (value != kNoValue && index(value) < sent_.size() && sent_[index(value)]) value = arrival(value, n);
      }
    }
    put_copies();
  }

 private:
  // A value leaves right after the node that makes it. What a collective gathers leaves after its first reader instead:
  // the two stay neighbours, which overlap_linears() looks for.
  void find_departures(std::size_t n) {
    const Node& node = graph_.nodes[n];
    const auto slots = op_info(node.op).slots;
    for (std::size_t s = 0; s < slots.size(); ++s) {
      const ValueId v = node.value[s];
      if (v == kNoValue || !sent_[index(v)]) continue;
      std::size_t& at = leaves_after_[index(v)];
      const bool made = made_[index(v)] = made_by(slots[s]);
      const bool read_here = at < graph_.nodes.size() && graph_.nodes[at].chunk == node.chunk;
      // Nodes come in falling order: of the readers the first one stays.
      if (!made || node.stream == StreamKind::Compute || !read_here) at = n;
    }
  }

  // The value as node `n` of backward reads it.
  ValueId arrival(ValueId v, std::size_t n) {
    const Node& reader = graph_.nodes[n];
    ValueId& back = back_[reader.late ? 1 : 0][index(v)];
    if (back != kNoValue) return back;
    if (host_[index(v)] == kNoValue) {
      host_[index(v)] = like(v, ".host");
      graph_[host_[index(v)]].host = true;
      graph_[host_[index(v)]].memory = MemoryClass::Offloaded;
      const std::size_t leaves = leaves_after_[index(v)];
      after_[leaves].push_back(copy_node<ToHost>(v, host_[index(v)], graph_.nodes[leaves]));
    }
    back = like(v, ".back");
    std::size_t at = n;
    for (int left = ahead_; left > 0 && at > graph_.backward_begin; --at) {
      const Node& before = graph_.nodes[at - 1];
      if (before.chunk != reader.chunk || before.late != reader.late) break;
      left -= before.stream == StreamKind::Compute ? 1 : 0;
    }
    before_[at].push_back(copy_node<FromHost>(host_[index(v)], back, reader));
    return back;
  }

  ValueId like(ValueId v, std::string_view suffix) {
    Value value;
    value.name = graph_[v].name + std::string(suffix);
    value.spec = graph_[v].spec;
    value.layer = graph_[v].layer;
    return graph_.add_value(std::move(value));
  }

  template <class Op>
  Node copy_node(ValueId from, ValueId to, const Node& beside) const {
    Node node;
    node.op = op_id<Op>;
    node.attrs = Attrs(std::in_place_index<op_id<Op>>);
    node.value[Op::kX] = from;
    node.value[Op::kY] = to;
    for (const int slot : {Op::kX, Op::kY}) node.specs.set(slot, graph_[from].spec);
    node.layer = graph_[from].layer;
    node.label = graph_[to].name;
    if (const std::string prefix = fmt::format("{}.", node.layer); node.label.starts_with(prefix))
      node.label.erase(0, prefix.size());
    node.stream = StreamKind::Copy;
    node.chunk = beside.chunk;
    node.late = beside.late;
    return node;
  }

  void put_copies() {
    std::vector<Node> nodes;
    std::size_t backward_begin = 0, update_begin = 0;
    for (std::size_t n = 0; n <= graph_.nodes.size(); ++n) {
      if (n == graph_.backward_begin) backward_begin = nodes.size();
      if (n == graph_.update_begin) update_begin = nodes.size();
      std::move(before_[n].begin(), before_[n].end(), std::back_inserter(nodes));
      if (n == graph_.nodes.size()) break;
      nodes.push_back(std::move(graph_.nodes[n]));
      std::move(after_[n].begin(), after_[n].end(), std::back_inserter(nodes));
    }
    graph_.nodes = std::move(nodes);
    graph_.backward_begin = backward_begin;
    graph_.update_begin = update_begin;
  }

  Graph& graph_;
  int ahead_;
  // By value that was there before.
  std::vector<bool> sent_, made_;
  std::vector<std::size_t> leaves_after_;  // a node
  std::vector<ValueId> host_;
  std::array<std::vector<ValueId>, 2> back_;       // in the two halves of backward
  std::vector<std::vector<Node>> before_, after_;  // copies, by node that was there before
};

// What the nodes of a layer make in forward.
std::vector<ValueId> made_in(const Graph& graph, int layer) {
  std::vector<ValueId> made;
  for (std::size_t n = 0; n < graph.backward_begin; ++n) {
    const Node& node = graph.nodes[n];
    const auto slots = op_info(node.op).slots;
    for (std::size_t s = 0; node.layer == layer && s < slots.size(); ++s) {
      const ValueId v = node.value[s];
      if (v != kNoValue && made_by(slots[s]) && !graph[graph.root(v)].persistent) made.push_back(v);
    }
  }
  return made;
}

}  // namespace

std::vector<ValueId> offloaded_values(const Graph& graph, std::span<const LayerRecompute> layers) {
  std::vector<ValueId> values;
  if (layers.empty()) return values;
  const bool by_name =
      std::any_of(layers.begin(), layers.end(), [](const LayerRecompute& l) { return !l.offload.empty(); });
  LayerValues all;
  if (by_name) all = recomputable_values(graph);
  for (const int layer : layers_of(graph)) {
    const LayerRecompute& wanted = layers[static_cast<std::size_t>(layer)];
    if (wanted.mode == RecomputeMode::Offload) {
      const std::vector<ValueId> made = made_in(graph, layer);
      values.insert(values.end(), made.begin(), made.end());
    } else if (wanted.mode == RecomputeMode::Auto) {
      const std::vector<ValueId> named = values_named(all[layer], wanted.offload);
      values.insert(values.end(), named.begin(), named.end());
    }
  }
  return values;
}

void offload(Graph& graph, std::span<const ValueId> values, int fetch_ahead) {
  require(graph.backward_begin <= graph.update_begin && graph.update_begin <= graph.nodes.size(), ErrorKind::Internal,
          "offload needs a graph with backward");
  if (!values.empty()) Offloader(graph, values, fetch_ahead).run(values);
}

}  // namespace plimsoll
