#include "runtime/plan/recompute_bound.hpp"

#include <algorithm>
#include <map>

namespace plimsoll {
namespace {

std::int64_t align_up(std::int64_t n) { return (n + kArenaAlignment - 1) / kArenaAlignment * kArenaAlignment; }

std::size_t index(ValueId v) { return static_cast<std::size_t>(v); }

// A value with memory of its own.
struct Life {
  std::size_t first = SIZE_MAX, last = 0;  // nodes
  std::size_t last_forward = 0;
  bool forward = false, backward = false, late = false;  // sections and halves that touch it
  int chunk = 0;
  bool of_layer = false;  // made by a layer in forward: it may be made again
  bool in_parts = false;  // nodes touch parts of it, or gather it, as far ahead as they like
  // Where it is nowhere made again, it has one place from its first to its last use.
  bool stays() const { return first != SIZE_MAX && !of_layer && !in_parts; }
  bool crosses() const { return stays() && (forward ? 1 : 0) + (backward ? 1 : 0) + (late ? 1 : 0) > 1; }
};

class Bound {
 public:
  Bound(const Program& program, int threads)
      : graph_(*program.graph), threads_(threads), update_begin_(std::min(graph_.update_begin, graph_.nodes.size())) {
    if (program.schedule != nullptr) slots_ = program.schedule->slots[static_cast<std::size_t>(program.stage)];
    if (slots_.size() == 1 && slots_.front() == 1) slots_.clear();
    find_lives();
  }

  std::int64_t bytes() const {
    std::vector<std::int64_t> slot_bytes;
    for (std::size_t c = 0; c < slots_.size(); ++c) slot_bytes.push_back(bytes_of_slot(static_cast<int>(c)));
    std::int64_t all_slots = 0;
    for (std::size_t c = 0; c < slots_.size(); ++c) all_slots += slots_[c] * slot_bytes[c];
    std::int64_t most = all_slots;
    for (std::size_t n = 0; n < graph_.nodes.size(); ++n) {
      if (graph_.nodes[n].stream != StreamKind::Compute) continue;
      const Needs needs = needs_of(n);
      const auto chunk = static_cast<std::size_t>(graph_.nodes[n].chunk);
      const std::int64_t slot = n < update_begin_ && chunk < slots_.size() ? slot_bytes[chunk] : 0;
      most = std::max(most, all_slots - slot + std::max(slot, needs.slot) + needs.scratch - shared_bytes(n));
    }
    return most;
  }

 private:
  void find_lives() {
    lives_.resize(graph_.values.size());
    for (std::size_t n = 0; n < graph_.nodes.size(); ++n) {
      const Node& node = graph_.nodes[n];
      for_each_access(graph_, node, [&](const MemoryAccess& a) {
        const ValueId root = graph_.root(a.value);
        Life& life = lives_[index(root)];
        touch(life, graph_.section(n), node.late, node.chunk);
        life.first = std::min(life.first, n);
        life.last = n;
        if (n < graph_.backward_begin) life.last_forward = n;
        if (n < graph_.backward_begin && a.writes && node.layer >= 0) life.of_layer = true;
        const bool whole = graph_[a.value].spec.bytes() == graph_[root].spec.bytes();
        if (!whole || node.stream != StreamKind::Compute) life.in_parts = true;
      });
    }
    // They are there at the ends of their actions, which are no nodes: the nodes between are enough.
    for (const OutsideUse& use : outside_uses(graph_)) touch(lives_[index(use.value)], use.section, false, use.chunk);
    for (std::size_t v = 0; v < lives_.size(); ++v) {
      const Value& value = graph_.values[v];
      if (value.persistent || value.host || value.base != kNoValue) lives_[v].first = SIZE_MAX;
      if (lives_[v].stays()) staying_.push_back(static_cast<ValueId>(v));
    }
  }

  static void touch(Life& life, Graph::Section section, bool late, int chunk) {
    if (section == Graph::Section::Forward) life.forward = true;
    if (section == Graph::Section::Backward) (late ? life.late : life.backward) = true;
    life.chunk = chunk;
  }

  bool crosses(ValueId v) const { return !slots_.empty() && lives_[index(v)].crosses(); }
  std::int64_t bytes_of(ValueId v) const { return align_up(graph_[v].spec.bytes()); }

  // What is in a slot between forward and backward, or between the halves of backward.
  std::int64_t bytes_of_slot(int chunk) const {
    std::int64_t before = 0, between = 0;
    for (const ValueId v : staying_) {
      const Life& life = lives_[index(v)];
      if (life.chunk != chunk || !life.crosses()) continue;
      if (life.forward) before += bytes_of(v);
      if (life.late) between += bytes_of(v);
    }
    return std::max(before, between);
  }

  struct Needs {
    std::int64_t slot = 0;     // what may lie in the slot of its chunk
    std::int64_t scratch = 0;  // what does not
  };

  Needs needs_of(std::size_t n) const {
    const Node& node = graph_.nodes[n];
    Needs needs;
    needs.scratch = align_up(op_info(node.op).workspace_bytes(node.attrs, node.specs, node.phase, threads_));
    std::map<ValueId, std::vector<std::pair<std::int64_t, std::int64_t>>> touched;  // ranges by root
    for_each_access(graph_, node, [&](const MemoryAccess& a) {
      const ValueId root = graph_.root(a.value);
      if (graph_[root].persistent || graph_[root].host) return;
      const std::int64_t begin = graph_.offset_in_root(a.value);
      touched[root].emplace_back(begin, begin + graph_[a.value].spec.bytes());
    });
    for (auto& [root, ranges] : touched) add(root, touched_bytes(root, ranges), needs);
    for (const ValueId v : staying_) {
      const bool elsewhere = crosses(v) && lives_[index(v)].chunk != node.chunk;  // in a slot of another chunk
      if (!elsewhere && !touched.contains(v) && stays_at(v, n)) add(v, bytes_of(v), needs);
    }
    return needs;
  }

  // A value that nothing makes again is in a slot if it crosses; one that a layer makes is in one if it is kept.
  void add(ValueId root, std::int64_t bytes, Needs& needs) const {
    (crosses(root) || lives_[index(root)].of_layer ? needs.slot : needs.scratch) += bytes;
  }

  std::int64_t touched_bytes(ValueId root, std::vector<std::pair<std::int64_t, std::int64_t>>& ranges) const {
    std::sort(ranges.begin(), ranges.end());
    std::int64_t sum = 0, end = 0;
    for (const auto& [first, last] : ranges) {
      sum += std::max<std::int64_t>(0, last - std::max(first, end));
      end = std::max(end, last);
    }
    return sum == graph_[root].spec.bytes() ? align_up(sum) : sum;
  }

  // Of outputs that may lie over inputs (share_forward_memory()).
  std::int64_t shared_bytes(std::size_t n) const {
    if (n >= graph_.backward_begin) return 0;
    const Node& node = graph_.nodes[n];
    const auto slots = op_info(node.op).slots;
    std::int64_t bytes = 0;
    for (std::size_t i = 0; i < slots.size(); ++i) {
      if (slots[i].role != Role::Output || slots[i].over < 0 || node.value[i] == kNoValue) continue;
      const ValueId in = node.value[static_cast<std::size_t>(slots[i].over)];
      if (in == kNoValue || graph_[graph_.root(in)].persistent) continue;
      const Life& life = lives_[index(graph_.root(in))];
      const bool may_end = life.of_layer ? life.last_forward == n : life.last == n;
      if (may_end && graph_[in].spec == graph_[node.value[i]].spec) bytes += align_up(graph_[in].spec.bytes());
    }
    return bytes;
  }

  // Nodes of one layer may change places among themselves.
  bool stays_at(ValueId v, std::size_t n) const {
    const Life& life = lives_[index(v)];
    const int layer = graph_.nodes[n].layer;
    const bool others = graph_.nodes[life.first].layer != layer && graph_.nodes[life.last].layer != layer;
    return life.first < n && n < life.last && (others || layer < 0);
  }

  const Graph& graph_;
  int threads_;
  std::size_t update_begin_;
  std::vector<int> slots_;  // by chunk; empty: one timeline
  std::vector<Life> lives_;
  std::vector<ValueId> staying_;
};

}  // namespace

std::int64_t unavoidable_bytes(const Program& program, int threads) { return Bound(program, threads).bytes(); }

}  // namespace plimsoll
