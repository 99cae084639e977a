#pragma once
// Internal to offset assignment: the peaks first, then what is around them.
//
// A training step piles buffers up to a peak and takes them down again, through peaks that are almost as high: few
// sections are tight, but in these every buffer must fit, which no order of all buffers takes care of. So the buffers
// that live in a peak are placed by depth-first search as if there were no others, those that live throughout at the
// bottom, the longest-lived lowest. The others are placed around them by first fit, those of the fullest sections
// first, the longest-lived of them first. One that finds no room moves before some of those that took it, and all the
// others are placed again; where that has not helped one for a number of times, the fullest section that it lives in is
// a peak, too. At first only the fullest section of all is one.

#include <cstdint>
#include <optional>

#include "runtime/plan/offset_problem.hpp"

namespace plimsoll::offsets {

// A placement with a peak of at most `capacity` units, or nullopt when the search among the buffers of peaks finds
// nothing or `nodes` is used up. It subtracts from `nodes` what the search visited, and a sixteenth for each buffer
// that it placed by first fit.
std::optional<Placement> search_peaks(const Problem& problem, std::int64_t capacity, std::int64_t& nodes);

}  // namespace plimsoll::offsets
