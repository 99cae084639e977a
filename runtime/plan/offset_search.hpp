#pragma once
// Internal to offset assignment: depth-first search over canonical placements for a given capacity, after Moffitt,
// "MiniMalloc: A Lightweight Memory Allocator for Hardware-Accelerated Machine Learning" (ASPLOS 2023).
//
// In a canonical placement every buffer lies on the bottom or on one below it. Such a placement is found by placing
// buffers with non-decreasing (offset, rank), each at the lowest offset above those already placed with it. Pruned are
//   - buffers under which another one would still fit as a whole (the other could always sink there);
//   - nodes where a passed-over buffer can no longer be lifted by a neighbour;
//   - nodes where a section cannot hold what is left: for any r, r + the sizes of its unplaced buffers that cannot lie
//     below r is at most the capacity.
// Buffers that live throughout lie at the bottom and parts that share no buffer in time are solved alone.

#include <cstdint>
#include <optional>

#include "runtime/plan/offset_problem.hpp"

namespace plimsoll::offsets {

// A placement with a peak of at most `capacity` units, or nullopt when none was found. Restarts with other ranks until
// `nodes` is used up, from which it subtracts what it visited: one placement among k buffers counts 1 + k / 32.
std::optional<Placement> search(const Problem& problem, std::int64_t capacity, std::int64_t& nodes);

}  // namespace plimsoll::offsets
