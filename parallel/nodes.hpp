#pragma once
// How passes put nodes into a graph.

#include <vector>

#include "runtime/graph/graph.hpp"

namespace plimsoll {

// A node to be inserted beside another one, in the same section.
struct Insert {
  std::size_t beside;
  bool before;
  Node node;
  std::size_t position() const { return before ? beside : beside + 1; }
};
using Inserts = std::vector<Insert>;

// Those at one place keep their order.
void insert_nodes(Graph& graph, Inserts inserts);

// For every value the last node that writes it or a part of it; 0 where none does.
std::vector<std::size_t> last_writes(const Graph& graph);

// A node of the stream of its axis; the values are as the op declares them.
template <class Op>
Node communication_node(const Graph& graph, typename Op::Attrs attrs, Phase phase,
                        std::initializer_list<SlotInput> slots, std::string label, int layer, std::uint8_t when) {
  Node node;
  node.op = op_id<Op>;
  node.phase = phase;
  node.attrs = Attrs(std::in_place_index<op_id<Op>>, std::move(attrs));
  node.label = std::move(label);
  node.layer = layer;
  node.stream = stream_of(axis_of(node));
  node.when = when;
  for (const SlotInput& s : slots) {
    node.value[static_cast<std::size_t>(s.slot)] = s.value;
    node.specs.set(s.slot, graph[s.value].spec);
  }
  SlotSpecs declared = node.specs;
  Op::infer(std::get<op_id<Op>>(node.attrs), declared);
  for (const SlotInput& s : slots) {
    require(declared[s.slot] == node.specs[s.slot], ErrorKind::Internal, "'{}': '{}' is {} where {} takes {}",
            node.label, graph[s.value].name, to_string(node.specs[s.slot]), Op::name, to_string(declared[s.slot]));
  }
  return node;
}

}  // namespace plimsoll
