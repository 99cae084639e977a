#include "runtime/graph/autodiff.hpp"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

namespace plimsoll {
namespace {

class Differentiator {
 public:
  Differentiator(Graph& graph, const BackwardOptions& options)
      : graph_(graph), options_(options), forward_(graph.nodes) {
    gradient_.assign(graph.values.size(), kNoValue);
    needed_.assign(graph.values.size(), false);
    producer_.assign(graph.values.size(), -1);
    parameter_of_.assign(graph.values.size(), -1);
    for (std::size_t p = 0; p < graph.parameters.size(); ++p) {
      needed_[index(graph.parameters[p].value)] = true;
      parameter_of_[index(graph.parameters[p].value)] = static_cast<int>(p);
    }
    for (const PieceEnds& piece : graph.pieces) {
      if (piece.input == kNoValue) continue;
      needed_[index(piece.input)] = true;
      producer_[index(piece.input)] = 0;  // its gradient is sent at the end: until then somebody reads it
    }
    mark_needed();
  }

  void run() {
    const bool loss = !forward_.empty() && op_info(forward_.back().op).terminal;
    require(loss || (!graph_.pieces.empty() && graph_.pieces.back().output != kNoValue), ErrorKind::Internal,
            "autodiff needs a graph that ends in a loss");
    if (loss) graph_.nodes.pop_back();
    for (PieceEnds& piece : graph_.pieces) {
      if (piece.output == kNoValue) continue;
      piece.output_grad = fresh_gradient(piece.output);
      set_gradient(piece.output, piece.output_grad);
    }
    graph_.backward_begin = graph_.nodes.size();
    for (at_ = static_cast<int>(forward_.size()) - 1; at_ >= 0; --at_)
      differentiate(forward_[static_cast<std::size_t>(at_)]);
    for (PieceEnds& piece : graph_.pieces) {
      if (piece.input != kNoValue) piece.input_grad = gradient_[index(piece.input)];
    }
    if (options_.weight_gradients_last) move_weight_gradients();
    graph_.update_begin = graph_.nodes.size();
  }

 private:
  void move_weight_gradients() {
    const auto begin = graph_.nodes.begin() + static_cast<std::ptrdiff_t>(graph_.backward_begin);
    const auto late =
        std::stable_partition(begin, graph_.nodes.end(), [](const Node& n) { return n.phase != Phase::WeightGrad; });
    for (auto n = late; n != graph_.nodes.end(); ++n) n->late = true;
  }

  static std::size_t index(ValueId v) { return static_cast<std::size_t>(v); }
  void set_gradient(ValueId value, ValueId gradient) {
    gradient_[index(value)] = gradient;
    holders_[gradient].push_back(value);
  }

  void mark_needed() {
    for (std::size_t n = 0; n < forward_.size(); ++n) {
      const Node& node = forward_[n];
      const OpInfo& op = op_info(node.op);
      if (op.straight_through) continue;
      require(op.differentiable(), ErrorKind::Internal, "{}: {} has no backward", node.label, op.name);
      bool any = false;
      for (std::size_t i = 0; i < op.slots.size(); ++i) {
        const bool in = op.slots[i].role == Role::Input || op.slots[i].role == Role::Param;
        any = any || (in && node.value[i] != kNoValue && needed_[index(node.value[i])]);
      }
      for (std::size_t i = 0; i < op.slots.size(); ++i) {
        if (op.slots[i].role != Role::Output || node.value[i] == kNoValue) continue;
        needed_[index(node.value[i])] = any;
        producer_[index(node.value[i])] = static_cast<int>(n);
      }
    }
  }

  // Another value has the same gradient tensor, and the backward of its producer (still to come, or this one) reads it.
  bool shared_with_pending(ValueId value, ValueId gradient) const {
    const auto holders = holders_.find(gradient);
    if (holders == holders_.end()) return false;
    return std::any_of(holders->second.begin(), holders->second.end(), [&](ValueId v) {
      return gradient_[index(v)] == gradient && v != value && producer_[index(v)] >= 0 && producer_[index(v)] <= at_;
    });
  }

  // A gradient that must not be written to any more.
  bool is_read_later(ValueId value, ValueId gradient) const {
    return kept_.contains(gradient) || shared_with_pending(value, gradient);
  }

  ValueId fresh_gradient(ValueId of) {
    Value g;
    g.name = "grad." + graph_[of].name;
    g.spec = graph_[of].spec;
    g.layer = graph_[of].layer;
    return graph_.add_value(std::move(g));
  }

  void give_parameter_gradient(Node& node, const OpInfo& op, std::size_t slot) {
    Parameter& p = graph_.parameters[static_cast<std::size_t>(parameter_of_[index(node.value[slot])])];
    node.accumulate[slot] = Accumulate::Always;
    if (p.gradient == kNoValue) {
      Value g;
      g.name = "grad." + graph_[p.value].name;
      g.spec = gradient_spec(op.slots[slot], graph_[p.value].spec);
      g.persistent = true;
      g.memory = MemoryClass::Gradients;
      g.layer = graph_[p.value].layer;
      p.gradient = graph_.add_value(std::move(g));
      node.accumulate[slot] = Accumulate::AfterFirst;
    }
    node.grad[slot] = p.gradient;
  }

  // Chooses where the gradient of an input goes. A contribution that cannot be added in place comes back in `late`.
  void give_input_gradient(Node& node, const OpInfo& op, std::size_t slot,
                           std::vector<std::pair<ValueId, ValueId>>& late) {
    const ValueId value = node.value[slot];
    const ValueId current = gradient_[index(value)];
    const bool has_twin = std::any_of(op.slots.begin(), op.slots.end(),
                                      [&](const Slot& s) { return s.same_gradient == static_cast<int>(slot); });
    if (current != kNoValue) {
      if (!op.collective && !has_twin && !is_read_later(value, current)) {
        node.grad[slot] = current;
        node.accumulate[slot] = Accumulate::Always;
        return;
      }
      node.grad[slot] = fresh_gradient(value);
      late.emplace_back(value, node.grad[slot]);
      return;
    }
    const int over = op.slots[slot].over;
    if (over >= 0) {
      const ValueId out = node.grad[static_cast<std::size_t>(over)];
      const ValueId out_value = over_value_[static_cast<std::size_t>(over)];
      if (out != kNoValue && graph_[out].spec == graph_[value].spec && !is_read_later(out_value, out)) {
        set_gradient(value, node.grad[slot] = out);
        return;
      }
    }
    set_gradient(value, node.grad[slot] = fresh_gradient(value));
  }

  // Adds `addend` to the gradient of `value` with an add node; a tensor that others still read is not written to.
  void add_late(ValueId value, ValueId addend, const Node& like) {
    const ValueId current = gradient_[index(value)];
    const ValueId sum = is_read_later(value, current) ? fresh_gradient(value) : current;
    Node add;
    add.op = op_id<Add>;
    add.attrs = Attrs(std::in_place_index<op_id<Add>>);
    add.label = like.label + ".sum";
    add.layer = like.layer;
    add.chunk = like.chunk;
    add.value[Add::kA] = current;
    add.value[Add::kB] = addend;
    add.value[Add::kY] = sum;
    for (int s = 0; s < 3; ++s) add.specs.set(s, graph_[value].spec);
    graph_.nodes.push_back(std::move(add));
    set_gradient(value, sum);
  }

  static void keep_read_values(Node& node, const OpInfo& op) {
    for (std::size_t i = 0; i < op.slots.size(); ++i) {
      const bool made = op.terminal && op.slots[i].role == Role::Output;
      if (!made && !reads_in(op.slots[i].backward, node.phase)) node.value[i] = kNoValue;
      if (made) node.accumulate[i] = Accumulate::AfterFirst;
    }
  }

  void keep_read_gradients(const Node& node, const OpInfo& op) {
    for (std::size_t i = 0; i < op.slots.size(); ++i) {
      if (node.grad[i] != kNoValue && op.slots[i].role != Role::Param) kept_.insert(node.grad[i]);
    }
  }

  void differentiate(const Node& forward) {
    const OpInfo& op = op_info(forward.op);
    bool any_output = op.terminal;
    SlotValues incoming;
    incoming.fill(kNoValue);
    for (std::size_t i = 0; i < op.slots.size(); ++i) {
      over_value_[i] = forward.value[i];
      if (op.slots[i].role != Role::Output || forward.value[i] == kNoValue || op.terminal) continue;
      incoming[i] = gradient_[index(forward.value[i])];
      any_output = any_output || incoming[i] != kNoValue;
    }
    if (!any_output) return;
    if (op.splits_backward) {
      differentiate_split(forward, op, incoming);
    } else {
      Node node = forward;
      node.phase = Phase::InputGrad;
      node.grad = incoming;
      std::vector<std::pair<ValueId, ValueId>> late;
      for (std::size_t i = 0; i < op.slots.size(); ++i) make_gradient(node, op, i, late);
      keep_read_values(node, op);
      graph_.nodes.push_back(std::move(node));
      for (const auto& [value, addend] : late) add_late(value, addend, forward);
    }
  }

  void make_gradient(Node& node, const OpInfo& op, std::size_t i, std::vector<std::pair<ValueId, ValueId>>& late) {
    const Slot& slot = op.slots[i];
    if (node.value[i] == kNoValue || !needed_[index(node.value[i])]) return;
    if (slot.role == Role::Param) give_parameter_gradient(node, op, i);
    if (slot.role != Role::Input) return;
    if (slot.same_gradient < 0) return give_input_gradient(node, op, i, late);
    const ValueId twin = node.grad[static_cast<std::size_t>(slot.same_gradient)];
    require(twin != kNoValue, ErrorKind::Internal, "{}: '{}' has no twin gradient", node.label, slot.name);
    if (gradient_[index(node.value[i])] != kNoValue) {
      late.emplace_back(node.value[i], twin);
    } else {
      set_gradient(node.value[i], twin);
    }
  }

  void differentiate_split(const Node& forward, const OpInfo& op, const SlotValues& incoming) {
    Node input_grad = forward;
    input_grad.phase = Phase::InputGrad;
    input_grad.grad = incoming;
    Node weight_grad = forward;
    weight_grad.phase = Phase::WeightGrad;
    weight_grad.grad = incoming;
    bool runs = false;
    std::vector<std::pair<ValueId, ValueId>> late;
    for (std::size_t i = 0; i < op.slots.size(); ++i) {
      const Slot& slot = op.slots[i];
      if (forward.value[i] == kNoValue) continue;
      if (slot.role == Role::Input) {
        make_gradient(input_grad, op, i, late);
        runs = runs || input_grad.grad[i] != kNoValue;
      } else if (slot.role == Role::Stat && slot.over >= 0) {
        const auto out = static_cast<std::size_t>(slot.over);
        const bool read_later = is_read_later(forward.value[out], incoming[out]);
        const ValueId g = read_later ? fresh_gradient(forward.value[i]) : incoming[out];
        input_grad.grad[i] = weight_grad.grad[i] = g;
        weight_grad.grad[out] = kNoValue;
        runs = true;
      } else if (slot.role == Role::Param && needed_[index(forward.value[i])]) {
        give_parameter_gradient(weight_grad, op, i);
      }
    }
    keep_read_values(input_grad, op);
    keep_read_values(weight_grad, op);
    if (options_.keep_for_weight_gradients) keep_read_gradients(weight_grad, op);
    if (runs) graph_.nodes.push_back(std::move(input_grad));
    graph_.nodes.push_back(std::move(weight_grad));
    for (const auto& [value, addend] : late) add_late(value, addend, forward);
  }

  Graph& graph_;
  BackwardOptions options_;
  std::vector<Node> forward_;
  std::unordered_set<ValueId> kept_;                           // gradients that weight gradients read
  std::vector<ValueId> gradient_;                              // by forward value
  std::unordered_map<ValueId, std::vector<ValueId>> holders_;  // by gradient: values that had it, or still have
  std::vector<bool> needed_;                                   // a parameter lies behind it
  std::vector<int> producer_;                                  // forward node that makes it
  std::vector<int> parameter_of_;
  SlotValues over_value_{};
  int at_ = 0;
};

}  // namespace

void add_backward(Graph& graph, const BackwardOptions& options) { Differentiator(graph, options).run(); }

}  // namespace plimsoll
