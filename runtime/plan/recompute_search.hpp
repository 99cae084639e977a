#pragma once
// The search beneath the recompute planner: one item per layer (or per run of layers), chosen for the least cost such
// that a stage stays within its budget. It knows bytes and picoseconds only.
//
//   minimise Σ ps(c_i)  such that, for every item i: (n-1)·S_tot + Σ_{j<i} saved(c_j) + peak(c_i) <= budget
//                       and n·S_tot + head <= budget,   S_tot = Σ saved(c_j),   n micro-batches in flight.
//
// Where what is saved has places of its own, which nothing else may use (the slots of a pipeline), the first line is
//   n·S_tot + peak(c_i) <= budget,   peaks without what is saved.
//
// n = 1: dynamic programming over the layers with labels (bytes, cost), of which those that no other dominates stay.
// n > 1: S_tot is confined to intervals [a, b]; a relaxation (room for n-1 times a, at most b in all) bounds each from
// below, and intervals are halved until none can hold anything cheaper than the best plan. Labels that cannot become
// cheaper than the best plan known are dropped, by the linear relaxation of the layers to come. Where labels become too
// many, bytes are put into bins: for the plan the cheapest label of a bin stays, with its true bytes, which is never
// worse than rounding its bytes up; for the bound they are rounded down. The difference is the gap.

#include <cstdint>
#include <optional>
#include <vector>

namespace plimsoll {

struct RecomputeItem {
  int span = 1;  // layers that it covers
  std::int64_t saved_bytes = 0, peak_bytes = 0, ps = 0;
  int source = -1;  // of the caller
};

struct RecomputeItems {
  std::vector<std::vector<RecomputeItem>> at;  // by the first layer that an item covers
  int in_flight = 1;
  std::int64_t head_bytes = 0;
  bool apart = false;  // what is saved has places of its own
};

// Counts, not time, so that the answer is a function of the question.
struct RecomputeLimits {
  int max_labels = 2048;                // per layer; beyond it, that many bins
  std::int64_t max_work = 100'000'000;  // labels times items looked at by a search; no new interval of S_tot beyond it
  double enough = 0;  // what is proven to cost at most so much more than the best, as a share of it, is not improved
};

struct RecomputeFound {
  std::vector<RecomputeItem> items;  // in the order of the layers
  std::int64_t ps = 0;
  std::int64_t bound_ps = 0;  // nothing is cheaper than this; equal to ps: the plan is optimal
};

// The bytes that a choice needs: the left sides above, at their largest.
std::int64_t items_peak_bytes(const std::vector<RecomputeItem>& chosen, int in_flight, std::int64_t head_bytes,
                              bool apart = false);

// The smallest budget that anything fits into; exact.
std::int64_t least_budget_bytes(const RecomputeItems& items);

// nullopt where the budget is less than that.
std::optional<RecomputeFound> cheapest_items(const RecomputeItems& items, std::int64_t budget_bytes,
                                             const RecomputeLimits& limits);

// The same without a search: nullopt, or what is left when every item saves as little as it can; cost does not count.
std::optional<std::vector<RecomputeItem>> smallest_items(const RecomputeItems& items, std::int64_t budget_bytes);

}  // namespace plimsoll
