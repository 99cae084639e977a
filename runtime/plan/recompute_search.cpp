#include "runtime/plan/recompute_search.hpp"

#include <algorithm>
#include <limits>
#include <queue>

#include "runtime/core/error.hpp"
#include "runtime/plan/recompute_labels.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();

std::int64_t total_ps(const std::vector<RecomputeItem>& chosen) {
  std::int64_t ps = 0;
  for (const RecomputeItem& item : chosen) ps += item.ps;
  return ps;
}

// What n micro-batches in flight leave for the layers of one when each saves so much.
std::int64_t room_beside(const RecomputeItems& items, std::int64_t budget, std::int64_t saved_bytes) {
  return budget - (items.in_flight - (items.apart ? 0 : 1)) * saved_bytes;
}

// The least saved bytes with `room`: of two prefixes the smaller is never worse, so one is kept per layer.
std::optional<std::vector<RecomputeItem>> least_path(const RecomputeItems& items, std::int64_t room) {
  const int layers = static_cast<int>(items.at.size());
  std::vector<std::int64_t> least(layers + 1, kNever);
  std::vector<const RecomputeItem*> by(layers + 1, nullptr);
  least[0] = 0;
  for (int i = 0; i < layers; ++i) {
    if (least[i] == kNever) continue;
    for (const RecomputeItem& item : items.at[i]) {
      const int end = i + item.span;
      const std::int64_t before = items.apart ? 0 : least[i];
      if (end > layers || before + item.peak_bytes > room || least[i] + item.saved_bytes >= least[end]) continue;
      least[end] = least[i] + item.saved_bytes;
      by[end] = &item;
    }
  }
  if (least[layers] == kNever) return std::nullopt;
  std::vector<RecomputeItem> path;
  for (int end = layers; end > 0; end -= path.back().span) path.push_back(*by[end]);
  std::reverse(path.begin(), path.end());
  return path;
}

std::int64_t total_saved(const std::vector<RecomputeItem>& chosen) {
  std::int64_t bytes = 0;
  for (const RecomputeItem& item : chosen) bytes += item.saved_bytes;
  return bytes;
}

// S_tot in [low, high], and what it costs at least.
struct Node {
  std::int64_t low, high, bound_ps;
  bool operator<(const Node& other) const {  // the first out of the queue is the one that may be cheapest
    return bound_ps != other.bound_ps ? bound_ps > other.bound_ps : low > other.low;
  }
};

class Search {
 public:
  Search(const RecomputeItems& items, std::int64_t budget, const RecomputeLimits& limits, Crowded crowded)
      : items_(items), bound_(items), budget_(budget), limits_(limits), crowded_(crowded) {}

  // Looks for what is cheaper than `best_ps`. False where labels became too many.
  bool run(std::int64_t best_ps) {
    best_ps_ = best_ps;
    const int n = items_.in_flight;
    std::priority_queue<Node> open;
    if (budget_ >= items_.head_bytes) open.push({0, (budget_ - items_.head_bytes) / n, 0});
    while (!open.empty() && open.top().bound_ps < best_ps_ && work_ <= limits_.max_work) {
      const Node node = open.top();
      open.pop();
      const LabelResult relaxed = path(room(node.low), node.high);
      if (relaxed.too_many) return false;
      if (relaxed.items.empty()) continue;
      if (crowded_ == Crowded::KeepBound) {
        if ((n == 1 && !items_.apart) || node.low == node.high) {
          least_leaf_ps_ = std::min(least_leaf_ps_, relaxed.ps);
          continue;
        }
      } else {
        if (take(relaxed)) continue;
        // A plan that surely fits, to bound the other intervals from above.
        const LabelResult strict = path(room(node.high), node.high);
        if (strict.too_many) return false;
        if (!strict.items.empty()) take(strict);
      }
      const std::int64_t half = node.low + (node.high - node.low) / 2;
      open.push({node.low, half, relaxed.ps});
      open.push({half + 1, node.high, relaxed.ps});
    }
    bound_ps_ = std::min(best_ps_, least_leaf_ps_);
    if (!open.empty()) bound_ps_ = std::min(bound_ps_, open.top().bound_ps);
    return true;
  }

  std::vector<RecomputeItem> best;  // empty: nothing was cheaper
  std::int64_t best_ps() const { return best_ps_; }
  std::int64_t bound_ps() const { return bound_ps_; }

 private:
  std::int64_t room(std::int64_t saved_bytes) const { return room_beside(items_, budget_, saved_bytes); }

  LabelResult path(std::int64_t room_bytes, std::int64_t cap_bytes) {
    LabelResult found =
        cheapest_path(items_, bound_, {room_bytes, cap_bytes, best_ps_, limits_.max_labels, crowded_, items_.apart});
    work_ += found.work;
    return found;
  }

  bool take(const LabelResult& found) {
    if (items_peak_bytes(found.items, items_.in_flight, items_.head_bytes, items_.apart) > budget_) return false;
    if (found.ps < best_ps_) {
      best = found.items;
      best_ps_ = found.ps;
    }
    return true;
  }

  const RecomputeItems& items_;
  SuffixBound bound_;
  std::int64_t budget_;
  RecomputeLimits limits_;
  Crowded crowded_;
  std::int64_t work_ = 0;
  std::int64_t best_ps_ = kNever, bound_ps_ = 0, least_leaf_ps_ = kNever;
};

}  // namespace

std::int64_t items_peak_bytes(const std::vector<RecomputeItem>& chosen, int in_flight, std::int64_t head_bytes,
                              bool apart) {
  const std::int64_t total = total_saved(chosen);
  std::int64_t peak = in_flight * total + head_bytes, before = (in_flight - (apart ? 0 : 1)) * total;
  for (const RecomputeItem& item : chosen) {
    peak = std::max(peak, before + item.peak_bytes);
    before += apart ? 0 : item.saved_bytes;
  }
  return peak;
}

std::optional<std::vector<RecomputeItem>> smallest_items(const RecomputeItems& items, std::int64_t budget_bytes) {
  // The least S_tot under the room that S_tot leaves is the least fixed point of a rising function.
  for (std::int64_t total = 0;;) {
    auto path = least_path(items, room_beside(items, budget_bytes, total));
    if (!path) return std::nullopt;
    const std::int64_t saved = total_saved(*path);
    if (items.in_flight * saved + items.head_bytes > budget_bytes) return std::nullopt;
    if (saved <= total || (items.in_flight == 1 && !items.apart)) return path;
    total = saved;
  }
}

std::int64_t least_budget_bytes(const RecomputeItems& items) {
  std::int64_t low = 0, high = items.head_bytes;
  for (const auto& at : items.at) {
    std::int64_t most = 0;
    for (const RecomputeItem& item : at) most = std::max(most, item.peak_bytes + item.saved_bytes);
    high += items.in_flight * most;
  }
  require(smallest_items(items, high).has_value(), ErrorKind::Internal, "a layer without a choice in a recompute plan");
  while (low < high) {
    const std::int64_t middle = low + (high - low) / 2;
    if (smallest_items(items, middle)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return high;
}

std::optional<RecomputeFound> cheapest_items(const RecomputeItems& items, std::int64_t budget_bytes,
                                             const RecomputeLimits& limits) {
  auto smallest = smallest_items(items, budget_bytes);
  if (!smallest) return std::nullopt;
  RecomputeFound found;
  found.items = *std::move(smallest);
  found.ps = total_ps(found.items);
  const auto search = [&](int max_labels, std::int64_t max_work, Crowded crowded) {
    Search s(items, budget_bytes, {max_labels, max_work}, crowded);
    if (!s.run(found.ps)) return false;
    if (!s.best.empty()) {
      found.items = s.best;
      found.ps = s.best_ps();
    }
    found.bound_ps = s.bound_ps();
    return true;
  };
  // A few bins first: a good plan in no time, which keeps the labels of the exact search few.
  search(std::min(256, limits.max_labels), limits.max_work / 16, Crowded::KeepCheapest);
  if (search(limits.max_labels, limits.max_work, Crowded::End)) return found;
  search(limits.max_labels, limits.max_work / 4, Crowded::KeepCheapest);
  if (search(limits.max_labels, limits.max_work, Crowded::End)) return found;
  search(limits.max_labels, limits.max_work / 4, Crowded::KeepBound);
  return found;
}

}  // namespace plimsoll
