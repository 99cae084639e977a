#pragma once
// Segments of the recompute planner: runs of layers of which only the first boundary is kept.

#include "runtime/plan/recompute_plan.hpp"

namespace plimsoll {

struct Segment {
  std::vector<LayerChoice> layers;  // `segment` counts from the segment's first layer
  std::int64_t saved_bytes = 0;     // its first boundary
  std::int64_t peak_bytes = 0;      // of its forward, its second forward and its backward, with the boundary
  std::int64_t ps = 0;
};

// What these choices for these layers come to as one segment. The last layer may do without a second forward; its
// option must then keep nothing but the boundary. Throws Error(Internal) on other choices.
Segment evaluate_segment(const std::vector<const LayerKind*>& kinds, std::vector<LayerChoice> layers);

// Segments of 2 to kinds.size() of these layers, all from the first on, that no other on offer of the same length
// dominates in (peak, cost). `options` are per layer. Empty where the first layer cannot be run again. `once`: nothing
// is made a third time, so the layers before the last keep all that their second forward makes.
std::vector<Segment> segments_from(const std::vector<const LayerKind*>& kinds,
                                   const std::vector<const std::vector<LayerOption>*>& options, bool once = false);

}  // namespace plimsoll
