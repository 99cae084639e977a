#include "runtime/graph/row_splits.hpp"

#include <algorithm>

namespace plimsoll {
namespace {

std::size_t index(ValueId v) { return static_cast<std::size_t>(v); }

bool made_by(const Slot& slot) { return slot.role == Role::Output || slot.role == Role::Stat; }

std::size_t forward_end(const Graph& graph) { return std::min(graph.nodes.size(), graph.backward_begin); }

// Nodes that run block by block, in order, and those between them.
struct Region {
  std::vector<std::size_t> nodes, before, after;
  int blocks = 1;
};

class RowSplitter {
 public:
  RowSplitter(Graph& graph, std::span<const LayerRecompute> layers) : graph_(graph) {
    for (const int layer : layers_of(graph)) {
      const auto rows = static_cast<int>(layers[static_cast<std::size_t>(layer)].rows);
      if (rows == 1) continue;
      const auto block = row_block(graph, layer);
      require(block.has_value(), ErrorKind::Internal, "layer {} has no MLP to be split by rows", layer);
      add_region(block->forward, rows);
      std::vector<std::size_t> backward;
      for (std::size_t n = forward_end(graph); n < std::min(graph.nodes.size(), graph.update_begin); ++n) {
        const Node& node = graph.nodes[n];
        if (node.layer == layer && block->labels.contains(node.label)) backward.push_back(n);
      }
      if (!backward.empty()) add_region(backward, rows);
    }
  }

  void run() {
    if (regions_.empty()) return;
    find_touches();
    std::vector<bool> gone(graph_.nodes.size(), false);
    std::map<std::size_t, const Region*> begins;
    for (const Region& region : regions_) {
      begins[region.nodes.front()] = &region;
      for (const auto* list : {&region.nodes, &region.before, &region.after}) {
        for (const std::size_t n : *list) {
          require(!gone[n], ErrorKind::Internal, "{}: lies in two blocks of rows", graph_.nodes[n].label);
          gone[n] = true;
        }
      }
    }
    const std::vector<Node> nodes = std::move(graph_.nodes);
    const std::size_t backward = graph_.backward_begin, update = graph_.update_begin;
    graph_.nodes.clear();
    for (std::size_t n = 0; n <= nodes.size(); ++n) {
      if (n == backward) graph_.backward_begin = graph_.nodes.size();
      if (n == update) graph_.update_begin = graph_.nodes.size();
      if (n == nodes.size()) break;
      if (const auto begin = begins.find(n); begin != begins.end()) {
        put(nodes, *begin->second);
      } else if (!gone[n]) {
        graph_.nodes.push_back(nodes[n]);
      }
    }
  }

 private:
  void add_region(const std::vector<std::size_t>& nodes, int blocks) {
    Region region{nodes, {}, {}, blocks};
    std::set<ValueId> written, read;  // roots, by what does not run before
    for (std::size_t n = nodes.front(); n <= nodes.back(); ++n) {
      const bool mine = std::binary_search(nodes.begin(), nodes.end(), n);
      bool waits = false;
      for_each_access(graph_, graph_.nodes[n], [&](const MemoryAccess& a) {
        const ValueId root = graph_.root(a.value);
        waits = waits || written.contains(root) || (a.writes && read.contains(root));
      });
      if (!mine) (waits ? region.after : region.before).push_back(n);
      if (!mine && !waits) continue;
      for_each_access(graph_, graph_.nodes[n],
                      [&](const MemoryAccess& a) { (a.writes ? written : read).insert(graph_.root(a.value)); });
    }
    for (const std::size_t other : region.after) require_free_of(region, other);
    regions_.push_back(std::move(region));
  }

  // What waits for the blocks must not be what they wait for.
  void require_free_of(const Region& region, std::size_t other) const {
    std::set<ValueId> made;
    for_each_access(graph_, graph_.nodes[other], [&](const MemoryAccess& a) {
      if (a.writes) made.insert(graph_.root(a.value));
    });
    for (const std::size_t n : region.nodes) {
      if (n < other) continue;
      for_each_access(graph_, graph_.nodes[n], [&](const MemoryAccess& a) {
        require(!made.contains(graph_.root(a.value)), ErrorKind::Internal, "{}: stands between blocks of rows of {}",
                graph_.nodes[other].label, graph_.nodes[n].label);
      });
    }
  }

  // The only region that touches each root; kElsewhere where others do as well.
  void find_touches() {
    std::vector<int> region_of(graph_.nodes.size(), kElsewhere);
    for (std::size_t r = 0; r < regions_.size(); ++r) {
      for (const std::size_t n : regions_[r].nodes) region_of[n] = static_cast<int>(r);
    }
    touched_by_.assign(graph_.values.size(), kNobody);
    for (std::size_t v = 0; v < graph_.values.size(); ++v) {
      const bool part = graph_.values[v].base != kNoValue;
      if (graph_.values[v].persistent || part) touched_by_[v] = kElsewhere;
      if (part) touched_by_[index(graph_.root(static_cast<ValueId>(v)))] = kElsewhere;
    }
    for (const auto& [name, value] : graph_.named) touched_by_[index(graph_.root(value))] = kElsewhere;
    for (const OutsideUse& use : outside_uses(graph_)) touched_by_[index(use.value)] = kElsewhere;
    for (std::size_t n = 0; n < graph_.nodes.size(); ++n) {
      for_each_access(graph_, graph_.nodes[n], [&](const MemoryAccess& a) {
        int& by = touched_by_[index(graph_.root(a.value))];
        by = by == kNobody || by == region_of[n] ? region_of[n] : kElsewhere;
      });
    }
  }

  void put(const std::vector<Node>& nodes, const Region& region) {
    const auto mine = static_cast<int>(&region - regions_.data());
    std::set<ValueId> apart;
    for (std::size_t v = 0; v < touched_by_.size(); ++v) {
      if (touched_by_[v] == mine) apart.insert(static_cast<ValueId>(v));
    }
    RowChunks rows(graph_, region.blocks, std::move(apart));
    for (const std::size_t n : region.before) graph_.nodes.push_back(nodes[n]);
    for (int i = 0; i < region.blocks; ++i) {
      for (const std::size_t n : region.nodes) graph_.nodes.push_back(node_of_block(rows, nodes[n], i));
    }
    for (const std::size_t n : region.after) graph_.nodes.push_back(nodes[n]);
  }

  static constexpr int kNobody = -2, kElsewhere = -1;
  Graph& graph_;
  std::vector<Region> regions_;
  std::vector<int> touched_by_;  // by root
};

// The layer whose forward runs again for the backward of a later one, before its own: the boundary behind it is not
// kept. It is in the same piece of a pipeline.
bool runs_again_for_others(const Graph& graph, const LayerValues& values, const KeepSets& keep, int layer) {
  const auto next = values.find(layer + 1), mine = values.find(layer);
  if (next == values.end() || mine == values.end() || !keep.contains(layer + 1)) return false;
  if (graph.nodes[next->second.front().node].chunk != graph.nodes[mine->second.front().node].chunk) return false;
  const std::vector<ValueId>& kept = keep.at(layer + 1);
  return std::any_of(next->second.begin(), next->second.end(), [&](const RecomputableValue& v) {
    return v.boundary && std::find(kept.begin(), kept.end(), v.value) == kept.end();
  });
}

}  // namespace

Node node_of_block(RowChunks& rows, const Node& whole, int i) {
  Node node = rows.chunk_of(whole, false, i);
  const auto slots = op_info(node.op).slots;
  for (std::size_t s = 0; i > 0 && s < slots.size(); ++s) {
    if (slots[s].role == Role::Param && node.grad[s] != kNoValue) node.accumulate[s] = Accumulate::Always;
  }
  return node;
}

bool has_row_splits(std::span<const LayerRecompute> layers) {
  return std::any_of(layers.begin(), layers.end(), [](const LayerRecompute& l) { return l.rows > 1; });
}

std::optional<RowBlock> row_block(const Graph& graph, int layer) {
  RowBlock block;
  std::size_t at = forward_end(graph);
  const auto before = [&](const auto& wanted) {
    while (at > 0 && (graph.nodes[at - 1].layer != layer || !wanted(graph.nodes[at - 1]))) --at;
    return at > 0 ? std::optional(--at) : std::nullopt;
  };
  const auto last = before([](const Node& node) { return node.op == op_id<Linear>; });
  if (!last) return std::nullopt;
  block.forward = {*last};
  for (ValueId read = graph.nodes[*last].value[Linear::kX];;) {
    const auto maker = before([read](const Node& node) {
      const auto slots = op_info(node.op).slots;
      for (std::size_t s = 0; s < slots.size(); ++s) {
        if (made_by(slots[s]) && node.value[s] == read) return true;
      }
      return false;
    });
    if (!maker) return std::nullopt;
    const Node& node = graph.nodes[*maker];
    block.forward.insert(block.forward.begin(), *maker);
    const auto slots = op_info(node.op).slots;
    for (std::size_t s = 0; s < slots.size(); ++s) {
      if (made_by(slots[s]) && node.value[s] != kNoValue) block.wide.insert(node.value[s]);
    }
    if (node.op == op_id<Linear>) break;
    if (node.op != op_id<SwiGlu>) return std::nullopt;
    read = node.value[SwiGlu::kX];
  }
  for (const std::size_t n : block.forward) block.labels.insert(graph.nodes[n].label);
  return block;
}

std::set<ValueId> values_in_blocks(const Graph& graph) {
  std::set<ValueId> values;
  for (const int layer : layers_of(graph)) {
    const auto block = row_block(graph, layer);
    if (!block) continue;
    for (const ValueId v : block->wide) values.insert(graph.root(v));
    // What its nodes but the first read is made within it, and so are the gradients of that.
    const std::string& first = graph.nodes[block->forward.front()].label;
    for (std::size_t n = forward_end(graph); n < graph.nodes.size(); ++n) {
      const Node& node = graph.nodes[n];
      if (node.layer != layer || node.label == first || !block->labels.contains(node.label)) continue;
      const auto slots = op_info(node.op).slots;
      for (std::size_t s = 0; s < slots.size(); ++s) {
        if (slots[s].role == Role::Input && node.grad[s] != kNoValue) values.insert(graph.root(node.grad[s]));
      }
    }
  }
  return values;
}

std::optional<std::string> row_split_fault(const Graph& graph, std::span<const LayerRecompute> layers) {
  if (!has_row_splits(layers)) return std::nullopt;
  const bool backward = graph.backward_begin < graph.nodes.size();
  const LayerValues values = backward ? recomputable_values(graph) : LayerValues();
  const KeepSets keep = backward ? keep_sets(graph, layers) : KeepSets();
  for (const int layer : layers_of(graph)) {
    const LayerRecompute& wanted = layers[static_cast<std::size_t>(layer)];
    if (wanted.rows == 1) continue;
    const auto block = row_block(graph, layer);
    if (!block) return fmt::format("layer {} has no MLP that could run in blocks of rows", layer);
    const std::int64_t rows = graph.nodes[block->forward.front()].specs[Linear::kX].rows();
    if (rows % wanted.rows != 0)
      return fmt::format("layer {}: {} blocks do not divide the {} rows of a micro-batch", layer, wanted.rows, rows);
    if (!backward) continue;
    for (const RecomputableValue& v : values.at(layer)) {
      const bool kept = !keep.contains(layer) ||
                        std::find(keep.at(layer).begin(), keep.at(layer).end(), v.value) != keep.at(layer).end();
      if (block->wide.contains(v.value) && kept)
        return fmt::format("layer {} keeps '{}', which exists for one block of rows at a time", layer, v.name);
    }
    if (runs_again_for_others(graph, values, keep, layer))
      return fmt::format("layer {} is run again whole, since the boundary of layer {} is not kept", layer, layer + 1);
    const bool late = std::any_of(graph.nodes.begin(), graph.nodes.end(), [&](const Node& node) {
      return node.late && node.layer == layer && block->labels.contains(node.label);
    });
    if (late)
      return fmt::format("layer {}: its weight gradients run apart from the rest of backward (zero bubble)", layer);
  }
  return std::nullopt;
}

void split_rows(Graph& graph, std::span<const LayerRecompute> layers) {
  if (has_row_splits(layers)) RowSplitter(graph, layers).run();
}

}  // namespace plimsoll
