#include "runtime/plan/recompute_reader.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "runtime/plan/memory.hpp"

namespace plimsoll {
namespace {

constexpr std::size_t kNever = SIZE_MAX;
// Numbers of blocks of rows on offer, where they divide the rows. Of sixteen blocks what is wide is the least of a
// layer's memory in any model, and products become small.
constexpr int kRowBlocks[] = {2, 4, 8, 16};

std::int64_t aligned(std::int64_t bytes) { return (bytes + kArenaAlignment - 1) / kArenaAlignment * kArenaAlignment; }

std::size_t index(ValueId v) { return static_cast<std::size_t>(v); }

bool runs(const Node& node) { return (node.when & static_cast<std::uint8_t>(Variant::Middle)) != 0; }

// Seconds of each node before the update, and of its collectives.
struct NodeSeconds {
  std::vector<double> own, wire;
};

NodeSeconds node_seconds(const Graph& graph, const CostModel& costs) {
  NodeSeconds seconds;
  seconds.own.assign(graph.nodes.size(), 0);
  seconds.wire.assign(graph.nodes.size(), 0);
  for (std::size_t n = 0; n < std::min(graph.nodes.size(), graph.update_begin); ++n)
    seconds.own[n] = costs.node_seconds(graph, graph.nodes[n]);
  for (const CollectiveCall& call : collectives(graph))
    seconds.wire[call.node] += costs.collective_seconds(call.kind, call.bytes(), call.ranks, 1);
  return seconds;
}

class Reader {
 public:
  Reader(const Graph& graph, const CostModel& costs, const GraphStageOptions& options)
      : graph_(graph),
        costs_(costs),
        options_(options),
        seconds_(node_seconds(graph, costs)),
        values_(recomputable_values(graph)) {
    first_.assign(graph.values.size(), kNever);
    last_.assign(graph.values.size(), 0);
    made_by_layer_.assign(graph.values.size(), -1);
    for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
      for_each_access(graph, graph.nodes[n], [&](const MemoryAccess& a) {
        const std::size_t root = index(graph.root(a.value));
        first_[root] = std::min(first_[root], n);
        last_[root] = n;
        if (n < graph.backward_begin && a.writes) made_by_layer_[root] = graph.nodes[n].layer;
      });
    }
    for (const OutsideUse& use : outside_uses(graph)) {
      if (use.writes || use.section == Graph::Section::Forward) continue;
      last_[index(use.value)] = graph.nodes.size();
    }
    find_readers();
  }

  // `boundary_seconds`: what making the next layer's boundary takes; it is made from this layer's output.
  ReadLayer read(int number, double boundary_seconds) {
    layer_ = {};
    tensor_of_.clear();
    const std::vector<RecomputableValue>& values = values_.at(number);
    add_inputs(values);
    for (std::size_t at = 0; at < values.size();) {
      std::size_t end = at + 1;
      while (end < values.size() && values[end].node == values[at].node) ++end;
      add_node(std::span(values).subspan(at, end - at));
      at = end;
    }
    LayerKind& kind = layer_.kind;
    kind.output = static_cast<int>(kind.tensors.size()) - 1;
    kind.saved_apart = options_.slots;
    LayerTensor& output = kind.tensors.back();
    if (!output.always_kept) output.seconds += boundary_seconds;
    keep_what_others_read();
    add_steps(number);
    if (options_.row_splits) add_row_split(number);
    const RecomputeMode modes[] = {RecomputeMode::Full, RecomputeMode::Selective};
    for (std::size_t m = 0; m < 2; ++m) {
      layer_.modes[m].assign(kind.tensors.size(), false);
      for (const ValueId v : kept_values(graph_, values, modes[m]))
        layer_.modes[m][static_cast<std::size_t>(tensor_of_.at(v))] = true;
    }
    return layer_;
  }

  // The part of the layer's first node that a norm of a kept boundary is without.
  double boundary_seconds(int number) const {
    for (const RecomputableValue& v : values_.at(number)) {
      const Node& node = graph_.nodes[v.node];
      if (v.boundary && op_info(node.op).again_from >= 0)
        return std::max(0.0, seconds_.own[v.node] - costs_.node_seconds(graph_, again_node(node)));
    }
    return 0;
  }

  // What is live besides the layers' tensors between the last layer's forward and its backward, at most.
  std::int64_t head_bytes(const std::vector<int>& numbers) const {
    std::size_t forward_end = 0, backward_first = graph_.update_begin;
    std::set<std::size_t> inputs;
    const std::set<int> layers(numbers.begin(), numbers.end());
    for (std::size_t n = 0; n < std::min(graph_.nodes.size(), graph_.update_begin); ++n) {
      if (!layers.contains(graph_.nodes[n].layer)) continue;
      if (n < graph_.backward_begin) {
        forward_end = n;
        for_each_access(graph_, graph_.nodes[n], [&](const MemoryAccess& a) {
          if (a.reads) inputs.insert(index(graph_.root(a.value)));
        });
      } else {
        backward_first = std::min(backward_first, n);
      }
    }
    std::vector<std::int64_t> change(graph_.nodes.size() + 2, 0);
    for (std::size_t v = 0; v < graph_.values.size(); ++v) {
      const bool counts = first_[v] != kNever && !graph_.values[v].persistent && made_by_layer_[v] < 0;
      if (!counts || inputs.contains(v)) continue;
      change[first_[v]] += graph_.values[v].spec.bytes();
      change[std::min(last_[v], graph_.nodes.size()) + 1] -= graph_.values[v].spec.bytes();
    }
    std::int64_t live = 0, most = 0;
    for (std::size_t n = 0; n < std::min(backward_first, graph_.nodes.size()); ++n) {
      live += change[n];
      if (n > forward_end) most = std::max(most, live + workspace(n));
    }
    return most;
  }

  double all_seconds() const {
    double sum = 0;
    for (std::size_t n = 0; n < std::min(graph_.nodes.size(), graph_.update_begin); ++n) {
      if (runs(graph_.nodes[n])) sum += seconds_.own[n] + seconds_.wire[n];
    }
    return sum;
  }

  double beside_copies_seconds() const {
    double backward = 0;
    for (std::size_t n = graph_.backward_begin; n < std::min(graph_.nodes.size(), graph_.update_begin); ++n)
      backward += runs(graph_.nodes[n]) ? seconds_.own[n] : 0;
    return all_seconds() - backward;
  }

 private:
  std::int64_t workspace(std::size_t n) const {
    const Node& node = graph_.nodes[n];
    return op_info(node.op).workspace_bytes(node.attrs, node.specs, node.phase, options_.threads);
  }

  int add_tensor(LayerTensor tensor, std::vector<std::string> names, std::span<const ValueId> values) {
    const int at = static_cast<int>(layer_.kind.tensors.size());
    layer_.kind.tensors.push_back(std::move(tensor));
    layer_.names.push_back(std::move(names));
    for (const ValueId v : values) tensor_of_[v] = at;
    return at;
  }

  // What the layer reads of others: always there. What another layer made is a boundary of that one and counted there.
  void add_inputs(const std::vector<RecomputableValue>& values) {
    std::set<ValueId> made;
    for (const RecomputableValue& v : values) made.insert(v.value);
    for (const RecomputableValue& v : values) {
      for (const ValueId in : v.inputs) {
        if (made.contains(in) || tensor_of_.contains(in) || v.boundary) continue;
        const bool of_layer = made_by_layer_[index(graph_.root(in))] >= 0;
        LayerTensor tensor{.name = "input", .bytes = of_layer ? 0 : graph_[in].spec.bytes(), .always_kept = true};
        add_tensor(std::move(tensor), {}, std::array{in});
      }
    }
  }

  // One output of the node, or several with the same fate.
  struct Part {
    LayerTensor tensor;
    std::vector<std::string> names;
    std::vector<ValueId> values;
    void take(const RecomputableValue& v) {
      if (names.empty()) tensor.name = v.name;
      names.push_back(v.name);
      values.push_back(v.value);
      tensor.bytes += v.bytes;
      tensor.host_bytes += aligned(v.bytes);
      tensor.copies = static_cast<int>(values.size());
      tensor.always_kept = tensor.always_kept || v.boundary;
    }
  };

  // [declared output] [on the way] [read by backward], those that there are.
  void add_node(std::span<const RecomputableValue> outputs) {
    const std::size_t n = outputs.front().node;
    Part declared, others;
    others.tensor.seconds = seconds_.own[n];
    others.tensor.collective_seconds = seconds_.wire[n];
    others.tensor.workspace_bytes = workspace(n);
    for (const ValueId in : outputs.front().inputs) {
      if (const auto known = tensor_of_.find(in); known != tensor_of_.end())
        others.tensor.made_from.push_back(known->second);
    }
    std::sort(others.tensor.made_from.begin(), others.tensor.made_from.end());
    const auto later = [](const RecomputableValue& v) { return v.again_from != kNoValue; };
    if (!std::any_of(outputs.begin(), outputs.end(), later)) {
      for (const RecomputableValue& v : outputs) others.take(v);
      return add_others(std::move(others), outputs);
    }
    declared.tensor = others.tensor;
    bool declared_stays = false;
    std::vector<RecomputableValue> rest;
    for (const RecomputableValue& v : outputs) {
      (later(v) ? others : declared).take(v);
      if (later(v)) rest.push_back(v);
      declared_stays = declared_stays || (!later(v) && (v.backward_reads || v.boundary));
    }
    const Node again = again_node(graph_.nodes[n]);
    others.tensor.seconds = std::min(declared.tensor.seconds, costs_.node_seconds(graph_, again));
    others.tensor.collective_seconds = 0;
    others.tensor.workspace_bytes =
        op_info(again.op).workspace_bytes(again.attrs, again.specs, Phase::Forward, options_.threads);
    declared.tensor.seconds -= others.tensor.seconds;
    if (declared.tensor.always_kept) {
      declared.tensor.made_from.clear();
      declared.tensor.seconds = declared.tensor.collective_seconds = 0;
    }
    others.tensor.made_from = {add_part(std::move(declared))};
    // Where backward does not read it, nothing is lost when it is dropped alone.
    if (declared_stays) others.tensor.kept_with = others.tensor.made_from.front();
    add_others(std::move(others), rest);
  }

  int add_part(Part part) {
    part.tensor.may_leave = part.tensor.always_kept && options_.boundaries_leave;
    return add_tensor(std::move(part.tensor), std::move(part.names), part.values);
  }

  // Outputs of one node: in two where backward reads some of them only, and none is a boundary.
  void add_others(Part part, std::span<const RecomputableValue> outputs) {
    const auto is_read = [](const RecomputableValue& v) { return v.backward_reads; };
    const bool mixed =
        std::any_of(outputs.begin(), outputs.end(), is_read) && !std::all_of(outputs.begin(), outputs.end(), is_read);
    if (part.tensor.always_kept) {
      part.tensor.made_from.clear();
      part.tensor.seconds = part.tensor.collective_seconds = 0;
    }
    if (!mixed || part.tensor.always_kept) {
      add_part(std::move(part));
      return;
    }
    Part on_the_way, read;
    on_the_way.tensor = part.tensor;
    on_the_way.tensor.bytes = on_the_way.tensor.host_bytes = 0;
    on_the_way.tensor.kept_with = -1;
    on_the_way.tensor.never_kept = true;
    for (const RecomputableValue& v : outputs) (v.backward_reads ? read : on_the_way).take(v);
    read.tensor.kept_with = part.tensor.kept_with;
    read.tensor.made_from = {add_part(std::move(on_the_way))};
    add_part(std::move(read));
  }

  // The values that backward reads outside of the layer that makes them.
  void find_readers() {
    std::vector<int> maker(graph_.values.size(), -1);
    for (const auto& [number, values] : values_) {
      for (const RecomputableValue& v : values) maker[index(v.value)] = number;
    }
    read_elsewhere_.assign(graph_.values.size(), false);
    for (std::size_t n = graph_.backward_begin; n < std::min(graph_.nodes.size(), graph_.update_begin); ++n) {
      const Node& node = graph_.nodes[n];
      if (runs(node)) backward_of_[node.layer].push_back(n);
      for (const ValueId v : node.value) {
        if (v != kNoValue && maker[index(v)] != node.layer) read_elsewhere_[index(v)] = true;
      }
    }
  }

  // Such a value is not its layer's to drop or send away.
  void keep_what_others_read() {
    for (const auto& [value, at] : tensor_of_) {
      LayerTensor& tensor = layer_.kind.tensors[static_cast<std::size_t>(at)];
      const bool elsewhere = read_elsewhere_[index(value)];
      tensor.always_kept = tensor.always_kept || elsewhere;
      tensor.may_leave = tensor.may_leave && !elsewhere;
    }
  }

  void add_steps(int number) {
    LayerKind& kind = layer_.kind;
    const std::vector<std::size_t>& nodes = backward_of_[number];
    const std::set<std::size_t> own(nodes.begin(), nodes.end());
    std::map<std::size_t, int> gradient_of;  // by root
    std::set<std::size_t> tensors;
    for (const auto& [value, tensor] : tensor_of_) tensors.insert(index(graph_.root(value)));
    for (const std::size_t n : nodes) {
      const Node& node = graph_.nodes[n];
      BackwardStep step{
          .name = node.label, .seconds = seconds_.own[n] + seconds_.wire[n], .workspace_bytes = workspace(n)};
      std::set<int> reads, makes, uses;
      for (const ValueId v : node.value) {
        if (const auto known = tensor_of_.find(v); known != tensor_of_.end()) reads.insert(known->second);
      }
      for_each_access(graph_, node, [&](const MemoryAccess& a) {
        const std::size_t root = index(graph_.root(a.value));
        if (graph_.values[root].persistent || tensors.contains(root) || first_[root] < graph_.backward_begin) return;
        const auto [entry, is_new] = gradient_of.try_emplace(root, static_cast<int>(kind.gradients.size()));
        if (is_new) kind.gradients.push_back({"gradient", graph_.values[root].spec.bytes()});
        if (first_[root] == n) makes.insert(entry->second);
        if (own.contains(last_[root])) uses.insert(entry->second);
      });
      step.reads.assign(reads.begin(), reads.end());
      step.makes.assign(makes.begin(), makes.end());
      step.uses.assign(uses.begin(), uses.end());
      kind.steps.push_back(std::move(step));
    }
  }

  void add_row_split(int number) {
    const std::optional<RowBlock> block = row_block(graph_, number);
    if (!block) return;
    const std::vector<std::size_t>& steps = backward_of_[number];
    const std::vector<std::size_t> nodes = backward_of(graph_, number, *block);
    const auto first = std::find(steps.begin(), steps.end(), nodes.empty() ? kNever : nodes.front());
    const bool in_a_row = steps.end() - first >= std::ssize(nodes) && std::equal(nodes.begin(), nodes.end(), first);
    if (nodes.empty() || !in_a_row) return;  // what stands between would have to wait
    if (!row_costs_) row_costs_.emplace(graph_, costs_);
    RowSplit split;
    std::set<int> tensors;
    for (const ValueId v : block->wide) tensors.insert(tensor_of_.at(v));
    split.tensors.assign(tensors.begin(), tensors.end());
    split.first_step = static_cast<int>(first - steps.begin());
    split.last_step = split.first_step + static_cast<int>(nodes.size()) - 1;
    for (const int blocks : kRowBlocks) {
      if (graph_.nodes[block->forward.front()].specs[Linear::kX].rows() % blocks != 0) continue;
      double seconds = 0;
      for (const std::size_t n : block->forward) {
        const int times = n == block->forward.back() ? 1 : 2;  // what is wide is made again
        seconds += times * row_costs_->more_seconds(n, blocks);
      }
      for (const std::size_t n : nodes) seconds += row_costs_->more_seconds(n, blocks);
      split.parts.push_back({blocks, std::max(0.0, seconds)});
    }
    if (!split.parts.empty()) layer_.kind.rows = std::move(split);
  }

  const Graph& graph_;
  const CostModel& costs_;
  const GraphStageOptions& options_;
  NodeSeconds seconds_;
  LayerValues values_;
  std::vector<std::size_t> first_, last_;                // nodes that touch a root
  std::vector<int> made_by_layer_;                       // by root, in forward
  std::vector<bool> read_elsewhere_;                     // by value, see find_readers()
  std::map<int, std::vector<std::size_t>> backward_of_;  // nodes, by layer
  ReadLayer layer_;
  std::map<ValueId, int> tensor_of_;
  std::optional<RowCosts> row_costs_;
};

}  // namespace

double RowCosts::more_seconds(std::size_t n, int blocks) {
  RowChunks rows(graph_, blocks);
  const Node first = node_of_block(rows, graph_.nodes[n], 0), later = node_of_block(rows, graph_.nodes[n], 1);
  return costs_.node_seconds(graph_, first) + (blocks - 1) * costs_.node_seconds(graph_, later) -
         costs_.node_seconds(graph_, graph_.nodes[n]);
}

std::vector<std::size_t> backward_of(const Graph& graph, int layer, const RowBlock& block) {
  std::vector<std::size_t> nodes;
  for (std::size_t n = graph.backward_begin; n < std::min(graph.nodes.size(), graph.update_begin); ++n) {
    const Node& node = graph.nodes[n];
    if (node.layer == layer && runs(node) && block.labels.contains(node.label)) nodes.push_back(n);
  }
  return nodes;
}

ReadStage read_stage(const Graph& graph, const CostModel& costs, const GraphStageOptions& options) {
  Reader reader(graph, costs, options);
  ReadStage stage;
  stage.numbers = layers_of(graph);
  stage.head_bytes = reader.head_bytes(stage.numbers);
  stage.seconds = reader.all_seconds();
  stage.beside_copies_seconds = reader.beside_copies_seconds();
  double boundary = 0;
  for (const int number : stage.numbers) boundary = std::max(boundary, reader.boundary_seconds(number));
  for (const int number : stage.numbers) stage.layers.push_back(reader.read(number, boundary));
  return stage;
}

}  // namespace plimsoll
