#pragma once
// What waiting in host memory costs (runtime/graph/offload.hpp).

#include <span>

#include "runtime/plan/cost.hpp"
#include "runtime/plan/recompute_layer.hpp"

namespace plimsoll {

// The line through what `costs` say of copies of the smallest and the largest value that one of the layers makes, with
// one latency for both ways. The graph is that of add_backward(), with at least one of the layers.
HostLink host_link(const Graph& graph, std::span<const int> layers, const CostModel& costs, bool overlap);

// What the copies to and from host memory in a rewritten graph add to a micro-batch: with `overlap`, what compute waits
// for them when the graph is played on its streams; otherwise what they take one after another. Collectives are of
// neighbouring ranks.
double offload_seconds(const Graph& graph, const CostModel& costs, bool overlap);

}  // namespace plimsoll
