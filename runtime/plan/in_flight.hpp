#pragma once
// How long a communication node or a copy may still be under way, in the order of the nodes: what it touches must stay
// until then, or a compute node that is given its bytes waits for it.

#include <vector>

#include "runtime/graph/graph.hpp"

namespace plimsoll {

// By node: the last node beside which it may run. Its own index for compute nodes; for the others the one before a
// compute node that needs its result (or overwrites what it reads), at most the one before the next node of the same op
// and axis that follows compute: so one reduction is under way while the gradients of the next are made, and one copy
// to the host while the next value is, and not all of them. Never beyond its section, chunk and half of backward.
std::vector<std::size_t> in_flight_until(const Graph& graph);
// Of a node of another stream than compute: the same if no compute node needed its result.
std::size_t in_flight_at_most(const Graph& graph, std::size_t node);

}  // namespace plimsoll
