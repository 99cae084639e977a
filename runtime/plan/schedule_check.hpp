#pragma once
// An independent check of pipeline schedules, which knows the rules but not how any schedule is made.

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "runtime/plan/schedule.hpp"

namespace plimsoll {

// The first violation of a schedule, with its stage and the index of its action there, or nullopt. In this order:
//   - on every stage, each (chunk, micro-batch) runs forward once, and then its input and its weight gradient once, in
//     one action or in this order;
//   - input gradients of a chunk run in rising order of micro-batches, and so do weight gradients;
//   - a slot is taken by Forward while nobody holds it, used by the gradients, and freed by the weight gradient;
//   - the slots of a stage and chunk are exactly the most that are in flight;
//   - messages of one direction between two stages are received in the order in which they are sent;
//   - no stage waits for ever.
std::optional<std::string> verify(const Schedule& schedule);

// Visits actions in an order that a run may take: every stage in the order of its list, every action after the one
// whose message it receives. Returns how many actions of each stage were visited: fewer than all where the stage waits
// for ever. Chunks and micro-batches must be in range.
std::vector<int> walk(const Schedule& schedule, const std::function<void(int stage, int index)>& visit);

}  // namespace plimsoll
