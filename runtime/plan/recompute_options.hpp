#pragma once
// The choices that a kind of layer offers to the recompute planner: those that no other choice dominates.

#include "runtime/plan/recompute_layer.hpp"

namespace plimsoll {

struct OptionSpace {
  // null: nothing is sent to host memory. With it, the largest tensors have three fates, and more of them two.
  const HostLink* link = nullptr;
  bool row_splits = false;
  std::int64_t max_choices = 16384;  // to simulate, per number of blocks of rows
};

struct LayerOptions {
  std::vector<LayerOption> options;  // ordered by saved bytes, then seconds
  // No choice of the layer is cheaper than the cheapest of these: the same as `options`, unless the layer has so many
  // tensors that the smallest of them were not put to choice: kept in `options`, free of bytes in `relaxed`.
  std::vector<LayerOption> relaxed;
  bool complete = true;  // both are the same
};

// All possible choices, the dominated ones left out.
LayerOptions layer_options(const LayerKind& kind, const OptionSpace& space);

// Those of `options` that no other one dominates in (saved, forward peak, backward peak, seconds to the picosecond);
// among equal ones the first.
std::vector<LayerOption> pareto_options(std::vector<LayerOption> options);

// By tensor: may backward read it, or make another one from it?
std::vector<bool> backward_needs(const LayerKind& kind);

// Everything that backward reads is kept, so that nothing is made again; or nothing that can be made again. Throws
// Error(Internal) where the description of the kind makes that impossible.
LayerOption keep_everything(const LayerKind& kind);
LayerOption keep_nothing(const LayerKind& kind);

// Seconds as a whole number of picoseconds, in which the planner adds and compares, so that sums do not depend on their
// order. Throws Error(Internal) beyond 1000 s.
std::int64_t picoseconds(double seconds);

}  // namespace plimsoll
