#include "runtime/plan/recompute_search.hpp"

#include <algorithm>
#include <iterator>
#include <limits>
#include <queue>
#include <utility>

#include "runtime/core/error.hpp"
#include "runtime/plan/recompute_labels.hpp"

namespace plimsoll {
namespace {

using Path = std::vector<RecomputeItem>;

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

// The Lagrangian relaxation, where saved bytes have a price: the cheapest items at the least price at which all fits,
// with as many layers as still fit at the price just below, and then what single layers can have back. Equal layers
// come within a layer or two of the best.
class RelaxedItems {
 public:
  RelaxedItems(const RecomputeItems& items, std::int64_t budget) : items_(items), budget_(budget) {}

  std::optional<Path> run() const {
    double low = 0, high = 1e-9;  // picoseconds per byte
    while (!fits(at_price(high))) {
      low = high;
      high *= 4;
      if (high > 1e9) return std::nullopt;
    }
    if (const Path free = at_price(0); fits(free)) return free;
    for (int i = 0; i < kHalvings; ++i) {
      const double middle = (low + high) / 2;
      (fits(at_price(middle)) ? high : low) = middle;
    }
    const Path dear = at_price(high), cheap = at_price(low);
    Path best = dear;
    join(dear, cheap, best);
    join(cheap, dear, best);
    for (std::size_t i = best.size(); i-- > 0;) take_back(best, i);
    return best;
  }

 private:
  static constexpr int kHalvings = 60;

  Path at_price(double price) const {
    const int layers = static_cast<int>(items_.at.size());
    std::vector<double> least(layers + 1, std::numeric_limits<double>::infinity());
    std::vector<const RecomputeItem*> by(layers + 1, nullptr);
    least[layers] = 0;
    for (int i = layers - 1; i >= 0; --i) {
      for (const RecomputeItem& item : items_.at[i]) {
        if (i + item.span > layers) continue;
        const double cost =
            least[i + item.span] + static_cast<double>(item.ps) + price * static_cast<double>(item.saved_bytes);
        if (cost >= least[i]) continue;
        least[i] = cost;
        by[i] = &item;
      }
    }
    Path path;
    for (int i = 0; i < layers; i += path.back().span) path.push_back(*by[i]);
    return path;
  }
  bool fits(const Path& path) const {
    return items_peak_bytes(path, items_.in_flight, items_.head_bytes, items_.apart) <= budget_;
  }
  // `first` up to some layer and `then` from there on, if that is better.
  void join(const Path& first, const Path& then, Path& best) const {
    std::size_t k = 0;
    int begin = 0, other = 0;  // the layers where the next item of `first` and of the rest of `then` begin
    for (std::size_t i = 0; i < first.size(); begin += first[i++].span) {
      while (other < begin) other += then[k++].span;
      if (other != begin) continue;
      Path path(first.begin(), first.begin() + static_cast<std::ptrdiff_t>(i));
      path.insert(path.end(), then.begin() + static_cast<std::ptrdiff_t>(k), then.end());
      if (total_ps(path) < total_ps(best) && fits(path)) best = std::move(path);
    }
  }
  // The cheapest item of a single layer that still fits.
  void take_back(Path& path, std::size_t index) const {
    if (path[index].span > 1) return;
    int layer = 0;
    for (std::size_t i = 0; i < index; ++i) layer += path[i].span;
    for (const RecomputeItem& item : items_.at[layer]) {
      if (item.span > 1 || item.ps >= path[index].ps) continue;
      const RecomputeItem before = std::exchange(path[index], item);
      if (!fits(path)) path[index] = before;
    }
  }

  const RecomputeItems& items_;
  std::int64_t budget_;
};

// Room that the last layer, or the head, takes beside what all layers saved.
std::int64_t least_beside_bytes(const RecomputeItems& items) {
  const int layers = static_cast<int>(items.at.size());
  std::int64_t least = kNever;
  for (int i = 0; i < layers; ++i) {
    for (const RecomputeItem& item : items.at[i]) {
      if (i + item.span == layers) least = std::min(least, item.peak_bytes - (items.apart ? 0 : item.saved_bytes));
    }
  }
  return std::max(least, items.head_bytes);
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
  Search(const RecomputeItems& items, const SuffixBound& bound, std::int64_t budget, const RecomputeLimits& limits,
         Crowded crowded)
      : items_(items), bound_(bound), budget_(budget), limits_(limits), crowded_(crowded) {}

  // Nothing costs less.
  std::int64_t least_ps() const { return bound_.least_ps(0, most_saved()); }

  // Looks for what is cheaper than `best_ps`. False where labels became too many.
  bool run(std::int64_t best_ps) {
    best_ps_ = best_ps;
    const int n = items_.in_flight;
    std::priority_queue<Node> open;
    if (most_saved() >= 0 && least_ps() < best_ps_) open.push({0, most_saved(), least_ps()});
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
      open.push({node.low, half, std::max(relaxed.ps, bound_.least_ps(0, half))});
      open.push({half + 1, node.high, relaxed.ps});
    }
    bound_ps_ = std::min(best_ps_, least_leaf_ps_);
    if (!open.empty()) bound_ps_ = std::min(bound_ps_, open.top().bound_ps);
    bound_ps_ = std::max(bound_ps_, std::min(least_ps(), best_ps_));
    return true;
  }

  std::vector<RecomputeItem> best;  // empty: nothing was cheaper
  std::int64_t best_ps() const { return best_ps_; }
  std::int64_t bound_ps() const { return bound_ps_; }

 private:
  // S_tot can be no more; negative where nothing fits.
  std::int64_t most_saved() const {
    const std::int64_t left = budget_ - least_beside_bytes(items_);
    return left < 0 ? -1 : left / items_.in_flight;
  }
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
  const SuffixBound& bound_;
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
  if (auto relaxed = RelaxedItems(items, budget_bytes).run(); relaxed && total_ps(*relaxed) < found.ps) {
    found.items = *std::move(relaxed);
    found.ps = total_ps(found.items);
  }
  const SuffixBound bound(items);
  const auto search = [&](int max_labels, std::int64_t max_work, Crowded crowded) {
    Search s(items, bound, budget_bytes, {max_labels, max_work}, crowded);
    found.bound_ps = std::max(found.bound_ps, std::min(s.least_ps(), found.ps));
    if (static_cast<double>(found.ps - found.bound_ps) <= limits.enough * static_cast<double>(found.ps)) return true;
    if (!s.run(found.ps)) return false;
    if (!s.best.empty()) {
      found.items = s.best;
      found.ps = s.best_ps();
    }
    if (crowded != Crowded::KeepCheapest) found.bound_ps = std::max(found.bound_ps, s.bound_ps());
    return true;
  };
  // A few bins first: a good plan in no time, which keeps the labels of the exact search few.
  const int few = std::min(256, limits.max_labels);
  search(few, limits.max_work / 16, Crowded::KeepCheapest);
  if (search(limits.max_labels, limits.max_work, Crowded::End)) return found;
  if (few < limits.max_labels) {
    search(limits.max_labels, limits.max_work / 4, Crowded::KeepCheapest);
    if (search(limits.max_labels, limits.max_work, Crowded::End)) return found;
  }
  // Where the linear relaxation says little.
  if (found.bound_ps < found.ps / 10 * 9) search(limits.max_labels, limits.max_work / 4, Crowded::KeepBound);
  return found;
}

}  // namespace plimsoll
