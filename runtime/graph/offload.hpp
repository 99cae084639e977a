#pragma once
// Offload of activations as a rewrite of the training graph: a value that backward reads goes to the host arena after
// forward made it, leaves the device after its last use in forward, and comes back shortly before backward reads it.
// All of it is copy nodes on the copy stream; memory plan, executor and schedules see values with short lives on the
// device and one with a long life in host memory.

#include <span>

#include "runtime/graph/recompute.hpp"

namespace plimsoll {

// Compute nodes of backward between the start of a copy back and the first node that reads it. A linear's two gradients
// are two of them, so this is about two linears: time for the copy, and few values on the device ahead of their use.
inline constexpr int kFetchAhead = 4;

// What the layers send to host memory: with mode Offload everything that their nodes make, with Auto the values of
// LayerRecompute::offload. By model layer, as for keep_sets(). Of the graph of add_backward(), before recompute(). A
// name that the layer does not have is Error(Internal).
std::vector<ValueId> offloaded_values(const Graph& graph, std::span<const LayerRecompute> layers);

// After recompute(), whose copies read what comes back like the rest of backward; before linears are cut into chunks.
// Where weight gradients are an action of their own (Node::late), a value comes back for each half of backward that
// reads it, so that it does not stay in between. Values that backward does not read stay as they are. A value that no
// forward node makes is Error(Internal).
void offload(Graph& graph, std::span<const ValueId> values, int fetch_ahead = kFetchAhead);

}  // namespace plimsoll
