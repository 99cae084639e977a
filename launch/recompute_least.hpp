#pragma once
// `memory.recompute: auto` where none of the planner's answers fits. The planner models memory, so its smallest answer
// need not be the smallest plan; and it treats what a node makes as one tensor, of which a list may keep a part. So
// from its smallest, layers are changed as long as the byte plan gets smaller.

#include <functional>
#include <span>
#include <vector>

#include "runtime/graph/recompute.hpp"

namespace plimsoll {

using LayerChoices = std::vector<LayerRecompute>;  // by layer of a stage, in the order of layers_of()

// Choices that need less and less, all of them less than `start`; empty: none was found. One change is one layer, or
// all between the first and the last, or all, with another mode, with what another layer of `start` keeps, with
// nothing, or with one value more or less; where layers are few, also with two values more or less. Of stages with many
// layers the first and the last two are changed by themselves. The work is limited by a number of byte plans, so that
// the answer follows from the arguments. `keeping`: the graph of add_backward(). `least_bytes`: of a plan.
std::vector<LayerChoices> smaller_choices(const Graph& keeping, LayerChoices start,
                                          const std::function<std::int64_t(const LayerChoices&)>& least_bytes);

}  // namespace plimsoll
