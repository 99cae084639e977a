#pragma once
// Row-splits: the MLP of a layer runs in blocks of rows (tokens), one after another, in forward and in backward, so
// that what is as wide as its inner linears exists for one block at a time. It is the same nodes on slices of rows
// (runtime/graph/row_chunks.hpp). Weight gradients are added up over the blocks: sums over rows are taken in another
// order, so results are those of whole products to rounding, not to the bit.

#include <optional>
#include <set>
#include <span>
#include <string>

#include "runtime/graph/recompute.hpp"
#include "runtime/graph/row_chunks.hpp"

namespace plimsoll {

// The part of a layer that can run so: its last linear, back to the linear that what it reads is made from.
struct RowBlock {
  std::vector<std::size_t> forward;  // nodes of the section of forward, in order
  std::set<ValueId> wide;            // what they make but the last one: nobody else reads it in forward
  std::set<std::string> labels;      // of those nodes; their backward and copies have them too
};
// A node for block i: the gradients of its parameters are added to those of the blocks before.
Node node_of_block(RowChunks& rows, const Node& whole, int i);
// Before split_rows(). nullopt: the layer has none.
std::optional<RowBlock> row_block(const Graph& graph, int layer);

// What would exist for one block of rows at a time if all layers that can ran so: what blocks make, and its gradients.
std::set<ValueId> values_in_blocks(const Graph& graph);

bool has_row_splits(std::span<const LayerRecompute> layers);
// Why `layers` (by model layer; empty: nothing) cannot be split so, naming the layer; nullopt when they can. The graph
// is that of add_backward(), or of forward alone, of which less is asked.
std::optional<std::string> row_split_fault(const Graph& graph, std::span<const LayerRecompute> layers);

// After recompute() and offload(); before linears are cut into chunks (parallel/overlap.hpp) and parameters are placed.
// Nodes between the first and the last of a block run before it, or behind it if they need what it makes. Also for
// graphs of forward alone. Error(Internal) where there is a fault.
void split_rows(Graph& graph, std::span<const LayerRecompute> layers);

}  // namespace plimsoll
