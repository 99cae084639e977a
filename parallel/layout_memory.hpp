#pragma once
// Internal to the layout planner: what is known of the memory of a layout before it is planned, and what recomputation
// must cost for it to fit. Bounds from below: no plan has fewer bytes, or recomputes for less.

#include "parallel/layout_pieces.hpp"

namespace plimsoll {

// Of a rank of one stage.
struct StageBytes {
  std::int64_t state = 0, staging = 0, scratch = 0;
  // In the slots of all micro-batches in flight: from forward to backward, or between its two halves.
  std::int64_t kept = 0;
  std::int64_t outside = 0;  // of that, outside of the layers
  // ZeRO 2 and 3, beside what the layers before keep: gradients of a layer and of the one whose are being summed, its
  // parameters and those that are gathered ahead.
  std::int64_t units = 0;
  std::int64_t bytes() const { return state + staging + scratch + kept; }
};
StageBytes bound_stage_bytes(PieceProfiles& pieces, const Layout& layout, int stage);

// Sets recompute_s of a layout that has none, which stays 0 without rewrite_at_need or a budget, and where values may
// wait in host memory instead.
void add_recompute_bound(PieceProfiles& pieces, const Layout& layout, LayoutEstimate& estimate);

}  // namespace plimsoll
