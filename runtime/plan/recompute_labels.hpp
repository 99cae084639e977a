#pragma once
// The dynamic program of recompute_search.hpp for one room and one cap.

#include <limits>

#include "runtime/plan/recompute_search.hpp"

namespace plimsoll {

// A choice for all layers before one: what they save and cost. Ordered in a list, bytes rise and costs fall.
struct RecomputeLabel {
  std::int64_t saved_bytes, ps;
  int begin, parent, item;  // the layer where the last item begins, the label there, the item's index there
};

// Per layer, the least cost of all layers from it on when they may save so many bytes: the linear relaxation, without
// the peaks. An item that covers several layers is shared out among them.
class SuffixBound {
 public:
  explicit SuffixBound(const RecomputeItems& items);

  // Of the layers from `layer` on, when they save at most `bytes`; kUnreachable where they cannot.
  static constexpr std::int64_t kUnreachable = std::numeric_limits<std::int64_t>::max();
  std::int64_t least_ps(int layer, std::int64_t bytes) const;
  // Whatever they save.
  std::int64_t least_ps(int layer) const { return suffix_[static_cast<std::size_t>(layer)].ps; }

  // Removes from `labels` of `layer` (rising saved bytes) those that cannot end below `incumbent_ps` within `cap`.
  void prune(std::vector<RecomputeLabel>& labels, int layer, std::int64_t cap, std::int64_t incumbent_ps) const;

 private:
  struct Slope {
    double bytes, ps;
  };
  struct Suffix {
    std::int64_t saved = 0, ps = 0;    // of the cheapest choice
    std::vector<double> bytes, costs;  // sums over slopes, the flattest first: bytes less, cost more
    // Of `less` bytes less, where slope `at` is the first that reaches them.
    std::int64_t ps_at(std::size_t at, double less) const;
  };
  std::vector<Suffix> suffix_;
};

// What happens where labels become too many: the search ends, or bytes are put into as many bins. Of a bin's labels the
// cheapest stays: what is found is a plan, perhaps not the best. Or one label with the fewest bytes and the least cost
// of the bin's stays: what is found is no plan (its items are not to be used), and no plan is cheaper.
enum class Crowded { End, KeepCheapest, KeepBound };

struct LabelTask {
  std::int64_t room_bytes;    // Σ_{j<i} saved + peak(c_i) may be this much
  std::int64_t cap_bytes;     // Σ saved may be this much
  std::int64_t incumbent_ps;  // only what is cheaper counts
  int max_labels;             // per layer
  Crowded crowded;
  bool apart = false;  // what the layers before saved does not count in the room
};

struct LabelResult {
  bool too_many = false;
  std::vector<RecomputeItem> items;  // empty: nothing is cheaper
  std::int64_t saved_bytes = 0, ps = 0;
  std::int64_t work = 0;  // labels times items
};

LabelResult cheapest_path(const RecomputeItems& items, const SuffixBound& bound, const LabelTask& task);

}  // namespace plimsoll
