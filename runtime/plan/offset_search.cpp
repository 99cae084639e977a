#include "runtime/plan/offset_search.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <utility>

#include "runtime/core/rng.hpp"

namespace plimsoll::offsets {
namespace {

// 32-bit units keep twice as many buffers in a vector register; larger instances are left to the list placements.
constexpr std::int64_t kLargestCapacity = std::int64_t{1} << 29;
constexpr std::size_t kLargestPart = 2048;  // buffers: the search keeps a row per depth
constexpr std::int64_t kFirstRestart = 3'000;
constexpr int kPlaced = std::numeric_limits<int>::max() / 2;

// One descent over the items of a part, whose indices are their ranks.
class Descent {
 public:
  enum class Outcome { Found, Exhausted, OutOfNodes };

  Descent(const Problem& problem, std::span<const int> ranked, int first_section, int sections, int capacity)
      : count_(static_cast<int>(ranked.size())), capacity_(capacity), load_(sections) {
    for (const int i : ranked) {
      const Item& item = problem.items[i];
      size_.push_back(static_cast<int>(item.size));
      first_.push_back(item.first - first_section);
      last_.push_back(item.last - first_section);
    }
    lowest_.resize(static_cast<std::size_t>(count_ + 1) * count_);
    offset_.resize(count_);
    bound_.resize(count_);
    lifted_.resize(count_);
  }

  Outcome run(std::int64_t& nodes) {
    nodes_ = nodes;
    const Outcome outcome = visit(0, 0, -1);
    nodes = nodes_;
    return outcome;
  }

  const std::vector<int>& offset() const { return offset_; }

 private:
  int* row(int depth) { return lowest_.data() + static_cast<std::size_t>(depth) * count_; }

  Outcome visit(int depth, int floor, int rank) {
    if (depth == count_) return Outcome::Found;
    if ((nodes_ -= 1 + count_ / 64) < 0) return Outcome::OutOfNodes;
    if (!raise_bounds(depth, floor, rank) || !sections_hold(depth)) return Outcome::Exhausted;
    for (const auto& [at, item] : candidates(depth, floor, rank)) {
      place(depth, item, at);
      const Outcome outcome = visit(depth + 1, at, item);
      if (outcome != Outcome::Exhausted) return outcome;
    }
    return Outcome::Exhausted;
  }

  void place(int depth, int item, int at) {
    const int* from = row(depth);
    int* to = row(depth + 1);
    const int top = at + size_[item];
    const int first = first_[item];
    const int last = last_[item];
    for (int j = 0; j < count_; ++j) {
      const bool meets = (first_[j] <= last) & (last_[j] >= first);
      to[j] = meets ? std::max(from[j], top) : from[j];
    }
    to[item] = kPlaced;
    offset_[item] = at;
  }

  static bool passed_over(int at, int item, int floor, int rank) { return at < floor || (at == floor && item < rank); }

  // bound_: the lowest offset each unplaced item can still get. A passed-over one must be lifted by an unplaced
  // neighbour; false when there is none.
  bool raise_bounds(int depth, int floor, int rank) {
    const int* lowest = row(depth);
    for (int j = 0; j < count_; ++j) {
      bound_[j] = std::max(lowest[j], floor);
      lifted_[j] = lowest[j] == kPlaced ? kPlaced : bound_[j] + size_[j];
    }
    for (int j = 0; j < count_; ++j) {
      if (lowest[j] == kPlaced || !passed_over(lowest[j], j, floor, rank)) continue;
      const int own = std::exchange(lifted_[j], kPlaced);
      int support = kPlaced;
      for (int k = 0; k < count_; ++k) {
        const bool meets = (first_[k] <= last_[j]) & (last_[k] >= first_[j]);
        support = std::min(support, meets ? lifted_[k] : kPlaced);
      }
      lifted_[j] = own;
      if (support + size_[j] > capacity_) return false;
      bound_[j] = std::max(bound_[j], support);
    }
    return true;
  }

  bool sections_hold(int depth) {
    const int* lowest = row(depth);
    by_bound_.clear();
    for (int j = 0; j < count_; ++j) {
      if (lowest[j] != kPlaced) by_bound_.emplace_back(bound_[j], j);
    }
    std::sort(by_bound_.begin(), by_bound_.end(), std::greater<>());
    std::fill(load_.begin(), load_.end(), 0);
    for (const auto& [bound, item] : by_bound_) {
      const int room = capacity_ - bound;
      const int size = size_[item];
      int heaviest = 0;
      for (int s = first_[item]; s <= last_[item]; ++s) heaviest = std::max(heaviest, load_[s] += size);
      if (heaviest > room) return false;
    }
    return true;
  }

  std::vector<std::pair<int, int>> candidates(int depth, int floor, int rank) const {
    const int* lowest = lowest_.data() + static_cast<std::size_t>(depth) * count_;
    int sink = kPlaced;
    for (int j = 0; j < count_; ++j) sink = std::min(sink, lowest[j] == kPlaced ? kPlaced : lowest[j] + size_[j]);
    std::vector<std::pair<int, int>> found;
    for (int j = 0; j < count_; ++j) {
      if (lowest[j] < sink && !passed_over(lowest[j], j, floor, rank)) found.emplace_back(lowest[j], j);
    }
    std::sort(found.begin(), found.end());
    return found;
  }

  int count_;
  int capacity_;
  std::int64_t nodes_ = 0;
  std::vector<int> size_, first_, last_;
  std::vector<int> lowest_;  // a row per depth: the lowest offset above what is placed; kPlaced for placed items
  std::vector<int> offset_, bound_, lifted_, load_;
  std::vector<std::pair<int, int>> by_bound_;
};

class Search {
 public:
  Search(const Problem& problem, std::int64_t capacity, std::int64_t& nodes)
      : problem_(problem), capacity_(capacity), nodes_(nodes), random_(0, "offset search") {
    placement_.offset.resize(problem.items.size());
  }

  // Solves the items that live in sections first … last above `base`.
  bool solve(std::vector<int> items, int first, int last, std::int64_t base) {
    std::erase_if(items, [&](int i) {
      const Item& item = problem_.items[i];
      if (item.first > first || item.last < last) return false;
      set(i, base);
      base += item.size;
      return true;
    });
    if (items.empty()) return true;
    std::stable_sort(items.begin(), items.end(),
                     [&](int a, int b) { return problem_.items[a].first < problem_.items[b].first; });
    std::vector<int> part;
    int part_last = -1;
    const std::size_t count = items.size();
    for (std::size_t k = 0; k < count; ++k) {
      const Item& item = problem_.items[items[k]];
      if (!part.empty() && item.first > part_last) {
        if (!solve_part(part, part_last, base, part.size() == count)) return false;
        part.clear();
      }
      part.push_back(items[k]);
      part_last = std::max(part_last, item.last);
    }
    return solve_part(part, part_last, base, part.size() == count);
  }

  Placement placement() && { return std::move(placement_); }

 private:
  void set(int item, std::int64_t offset) {
    placement_.offset[item] = offset;
    placement_.peak = std::max(placement_.peak, offset + problem_.items[item].size);
  }

  bool solve_part(const std::vector<int>& items, int last, std::int64_t base, bool whole) {
    const int first = problem_.items[items.front()].first;
    const bool spanned = std::any_of(items.begin(), items.end(), [&](int i) {
      return problem_.items[i].first == first && problem_.items[i].last == last;
    });
    if (!whole || spanned) return solve(items, first, last, base);
    return descend(items, first, last, base);
  }

  // Ranks of one restart: the first few are plain orders, the others the order of area with random factors.
  std::vector<int> ranks(const std::vector<int>& items, int restart) {
    std::vector<std::pair<double, int>> keyed;
    for (const int i : items) {
      const Item& item = problem_.items[i];
      const double size = std::log(static_cast<double>(item.size));
      const double length = std::log(static_cast<double>(item.lifetime));
      double key = size + length;
      if (restart == 1) key = length;
      if (restart == 2) key = size;
      if (restart > 2) key = size + length * (0.5 + (restart % 3) * 0.5) + 1.5 * random_.uniform(draw_++);
      keyed.emplace_back(-key, i);
    }
    std::sort(keyed.begin(), keyed.end());
    std::vector<int> ranked;
    for (const auto& entry : keyed) ranked.push_back(entry.second);
    return ranked;
  }

  bool descend(const std::vector<int>& items, int first, int last, std::int64_t base) {
    if (items.size() > kLargestPart) return false;
    std::int64_t limit = kFirstRestart;
    for (int restart = 0; nodes_ > 0; ++restart, limit += limit / 8) {
      const std::vector<int> ranked = ranks(items, restart);
      Descent descent(problem_, ranked, first, last - first + 1, static_cast<int>(capacity_ - base));
      const std::int64_t granted = std::min(limit, nodes_);
      std::int64_t left = granted;
      const auto outcome = descent.run(left);
      nodes_ -= granted - std::max<std::int64_t>(left, 0);
      if (outcome == Descent::Outcome::Exhausted) return false;
      if (outcome == Descent::Outcome::OutOfNodes) continue;
      for (std::size_t k = 0; k < ranked.size(); ++k) set(ranked[k], base + descent.offset()[k]);
      return true;
    }
    return false;
  }

  const Problem& problem_;
  std::int64_t capacity_;
  std::int64_t& nodes_;
  RandomStream random_;
  std::uint64_t draw_ = 0;
  Placement placement_;
};

}  // namespace

std::optional<Placement> search(const Problem& problem, std::int64_t capacity, std::int64_t& nodes) {
  if (capacity < problem.max_live || capacity > kLargestCapacity || nodes <= 0) return std::nullopt;
  std::vector<int> items(problem.items.size());
  std::iota(items.begin(), items.end(), 0);
  Search search(problem, capacity, nodes);
  if (!search.solve(std::move(items), 0, problem.sections - 1, 0)) return std::nullopt;
  return std::move(search).placement();
}

}  // namespace plimsoll::offsets
