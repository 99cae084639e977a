#pragma once
// Internal to offset assignment: the peak first, then what is around it.
//
// A training step piles buffers up to one peak and takes them down again: only the sections around that peak are tight,
// but there every buffer must fit, which no order of all buffers takes care of. So a window of sections around the
// fullest one is solved alone by depth-first search, buffers that span it at the bottom, the longest-lived lowest; the
// others are placed around that by first fit, those of the fullest sections first, the longest-lived of them first. One
// that finds no room moves before some of those that took it, and all around the window are placed again; where that
// has not helped for a number of times, the window was too narrow: its width doubles.

#include <cstdint>
#include <optional>

#include "runtime/plan/offset_problem.hpp"

namespace plimsoll::offsets {

// A placement with a peak of at most `capacity` units, or nullopt when no window leads to one, the search in a window
// finds nothing or `nodes` is used up. It subtracts from `nodes` what the search visited, and a sixteenth for each
// buffer that it placed by first fit.
std::optional<Placement> search_windows(const Problem& problem, std::int64_t capacity, std::int64_t& nodes);

}  // namespace plimsoll::offsets
