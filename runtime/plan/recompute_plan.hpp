#pragma once
// Activation checkpointing under a byte budget: which tensors of which layer of a pipeline stage are kept from forward
// to backward, such that the stage fits and recomputation costs least.
//
// Three sets of choices are tried in turn:
// 1. per layer, every keep-set (with offload, where there is a host link), see recompute_layer.hpp;
// 2. also segments: of up to k layers only the first boundary is kept, and their forward runs again before their
//    backward (Chen et al. 2016), keeping within the segment what the layers' inner choices say. k = ⌈√(2·layers)⌉ + 1:
//    longer ones do not lower the peak of equal layers. Inner choices: the corners of the layer's trade of bytes for
//    time;
// 3. also row-splits, which change the order of sums.
// The second is tried below twice the least budget of the first, where it can be cheaper, the third only where nothing
// else fits. Within its set the answer is optimal, or has a proven gap (recompute_search.hpp).

#include <memory>
#include <string>
#include <variant>

#include "runtime/plan/recompute_options.hpp"
#include "runtime/plan/recompute_search.hpp"

namespace plimsoll {

struct RecomputeStage {
  std::vector<LayerKind> kinds;
  std::vector<int> layers;      // the kind of every layer, in forward order
  int in_flight = 1;            // micro-batches between their forward and their backward; 1F1B: min(m, p - stage)
  std::int64_t head_bytes = 0;  // of what follows the last layer
  std::optional<HostLink> link;
  bool segments = true, row_splits = true;  // may be used, as above
  bool once = false;  // within a segment nothing is made a third time: what the graph rewrite can do
  bool operator==(const RecomputeStage&) const = default;
};

struct LayerChoice {
  LayerOption option;
  int segment = 0;  // the first layer of its segment: the layer itself where it is in none
  bool rerun =
      false;  // in a segment: its forward runs again, keeping what `option` says, before the segment's backward
};

enum class RecomputeLevel { Layers, Segments, RowSplits };

struct RecomputePlan {
  std::vector<LayerChoice> layers;
  RecomputeLevel level = RecomputeLevel::Layers;
  double seconds = 0;                            // beyond keeping everything, of one micro-batch
  double bound_seconds = 0;                      // no choice of this level is cheaper
  std::int64_t saved_bytes = 0, host_bytes = 0;  // of one micro-batch
  std::int64_t peak_bytes = 0;
  bool exact() const { return seconds == bound_seconds; }
};

struct RecomputeInfeasible {
  std::int64_t needed_bytes;  // the smallest budget that has a plan
};

using RecomputeAnswer = std::variant<RecomputePlan, RecomputeInfeasible>;

// Plans of one stage under several budgets. Throws Error(Internal) on a stage that is described wrongly.
class RecomputePlanner {
 public:
  explicit RecomputePlanner(RecomputeStage stage);
  ~RecomputePlanner();
  RecomputePlanner(RecomputePlanner&&) noexcept;
  RecomputeAnswer plan(std::int64_t budget_bytes, const RecomputeLimits& limits = {});
  const RecomputeStage& stage() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

RecomputeAnswer plan_recompute(const RecomputeStage& stage, std::int64_t budget_bytes,
                               const RecomputeLimits& limits = {});

// Any choices, segments as well, put through the same accounting: what an explicit mode or list comes to. Throws
// Error(Internal) where they do not belong to the stage.
RecomputePlan recompute_plan_of(const RecomputeStage& stage, std::vector<LayerChoice> choices);

// The peak when nothing is recomputed: what budgets are fractions of.
std::int64_t no_recompute_peak_bytes(const RecomputeStage& stage);

}  // namespace plimsoll
