#pragma once
// Offset assignment: every buffer of a step gets a fixed place in one region, so that buffers which live at the same
// time never share a byte and the region is as small as can be found (dynamic storage allocation; planner.md, section
// 2).
//
// Sizes are rounded up to `alignment` first and every offset is a multiple of it. The lower bound of any answer is the
// largest sum of rounded sizes that live at one position (max-live). Four searches run until one reaches the target,
// which is the larger of max-live and `capacity`:
//   1. a portfolio: five orders (lifetime, size, area, log2 lifetime then size, conflict degree; largest first) × first
//      fit and best fit;
//   2. hill climbing on the best order (a buffer that causes the peak moves forward in the order);
//   3. depth-first search over the buffers of peaks alone, the others around what it finds (see offset_peaks.hpp);
//   4. depth-first search over canonical placements of all buffers (see offset_search.hpp).
// Three and four also halve the range above a target that they do not reach. Two to four stop after a number of visited
// nodes, never after a time: the answer is a function of its arguments.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace plimsoll {

// A buffer that is live in [first, last], inclusive positions on one total order.
struct Lifetime {
  std::int64_t bytes;  // > 0
  int first;
  int last;  // >= first
};

struct Offsets {
  std::vector<std::int64_t> offset;  // bytes, one per lifetime, in the caller's order
  std::int64_t peak_bytes;           // max over buffers of offset + bytes (the true, unrounded bytes): what to allocate
  std::int64_t max_live_bytes;       // max over positions of the sum of live sizes, each rounded up to the alignment
  bool optimal;        // the peak of the rounded sizes equals max_live_bytes: no placement has a lower one
  std::string method;  // what found the answer, e.g. "lifetime, first fit", "hill climbing", "search around the peak"
};

struct OffsetOptions {
  std::int64_t alignment = 512;      // bytes, > 0
  std::int64_t max_nodes = 200'000;  // visited nodes of all searches but the first together; 0: the portfolio alone
  std::int64_t capacity = 0;         // bytes: stop as soon as the rounded peak is at most this; 0: off
  // Bytes: only whether the peak is at most this is of interest. A placement that is within it is returned at once, and
  // one without any sharing where no placement can be; otherwise the answer is that without this option. 0: off
  std::int64_t enough = 0;
};

// Offsets for all `lifetimes`; an empty span gives an empty answer with peak 0. Throws Internal on a lifetime that is
// empty or ends before it begins, and on options out of range.
Offsets assign_offsets(std::span<const Lifetime> lifetimes, const OffsetOptions& options = {});

}  // namespace plimsoll
