#include "runtime/plan/offset_problem.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>
#include <tuple>

namespace plimsoll::offsets {
namespace {

std::vector<int> sorted_indices(std::size_t count, auto less) {
  std::vector<int> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), less);
  return order;
}

// One sweep: a section closes at the first end after a start, so that only maximal live sets are counted.
void cut_sections(std::span<const Lifetime> lifetimes, Problem& problem) {
  const std::size_t n = lifetimes.size();
  const auto starts = sorted_indices(n, [&](int a, int b) { return lifetimes[a].first < lifetimes[b].first; });
  const auto ends = sorted_indices(n, [&](int a, int b) { return lifetimes[a].last < lifetimes[b].last; });
  std::size_t start = 0;
  int section = -1;
  bool closed = true;
  for (const int end : ends) {
    while (start < n && lifetimes[starts[start]].first <= lifetimes[end].last) {
      if (closed) ++section;
      closed = false;
      problem.items[starts[start++]].first = section;
    }
    problem.items[end].last = section;
    closed = true;
  }
  problem.sections = section + 1;
}

// For each item, how many others share a section with it.
std::vector<std::int64_t> conflict_degrees(const Problem& problem) {
  std::vector<std::int64_t> started(problem.sections + 1, 0);
  std::vector<std::int64_t> ended(problem.sections + 1, 0);
  for (const Item& item : problem.items) {
    ++started[item.first];
    ++ended[item.last + 1];
  }
  std::partial_sum(started.begin(), started.end(), started.begin());
  std::partial_sum(ended.begin(), ended.end(), ended.begin());
  std::vector<std::int64_t> degree;
  degree.reserve(problem.items.size());
  for (const Item& item : problem.items) degree.push_back(started[item.last] - ended[item.first] - 1);
  return degree;
}

// Placed buffers by offset, as parallel arrays: the scan of place_in_order is the hot loop of the portfolio.
class Shelf {
 public:
  explicit Shelf(std::size_t capacity) {
    for (auto* ints : {&first_, &last_}) ints->reserve(capacity);
    for (auto* longs : {&offset_, &end_}) longs->reserve(capacity);
  }

  std::int64_t find(const Item& item, Fit fit) const {
    std::int64_t top = 0;
    std::int64_t best = -1;
    std::int64_t best_gap = std::numeric_limits<std::int64_t>::max();
    for (std::size_t k = 0; k < offset_.size(); ++k) {
      if (first_[k] > item.last || last_[k] < item.first) continue;
      const std::int64_t gap = offset_[k] - top;
      if (gap >= item.size && gap < best_gap) {
        if (fit == Fit::First) return top;
        best = top;
        best_gap = gap;
      }
      top = std::max(top, end_[k]);
    }
    return best >= 0 ? best : top;
  }

  void insert(const Item& item, std::int64_t offset) {
    const auto at = std::upper_bound(offset_.begin(), offset_.end(), offset) - offset_.begin();
    offset_.insert(offset_.begin() + at, offset);
    end_.insert(end_.begin() + at, offset + item.size);
    first_.insert(first_.begin() + at, item.first);
    last_.insert(last_.begin() + at, item.last);
  }

 private:
  std::vector<int> first_, last_;
  std::vector<std::int64_t> offset_, end_;
};

}  // namespace

Problem make_problem(std::span<const Lifetime> lifetimes, std::int64_t alignment) {
  Problem problem;
  problem.items.reserve(lifetimes.size());
  for (const Lifetime& l : lifetimes) {
    problem.items.push_back({(l.bytes - 1) / alignment + 1, 0, 0, std::int64_t{l.last} - l.first + 1});
  }
  cut_sections(lifetimes, problem);
  std::vector<std::int64_t> change(problem.sections + 1, 0);
  for (const Item& item : problem.items) {
    change[item.first] += item.size;
    change[item.last + 1] -= item.size;
  }
  std::partial_sum(change.begin(), change.end(), change.begin());
  change.resize(problem.sections);
  problem.live = std::move(change);
  for (const std::int64_t live : problem.live) problem.max_live = std::max(problem.max_live, live);
  return problem;
}

std::vector<Order> portfolio_orders(const Problem& problem) {
  const auto degree = conflict_degrees(problem);
  const auto& items = problem.items;
  const auto by = [&](std::string name, auto key) {
    return Order{std::move(name), sorted_indices(items.size(), [&](int a, int b) {
                   return std::tuple(key(a), items[a].size) > std::tuple(key(b), items[b].size);
                 })};
  };
  // double: an area of large buffers over many positions passes 2^63
  return {
      by("lifetime", [&](int i) { return items[i].lifetime; }), by("size", [&](int i) { return items[i].size; }),
      by("area", [&](int i) { return static_cast<double>(items[i].size) * static_cast<double>(items[i].lifetime); }),
      by("log2 lifetime + size", [&](int i) { return std::bit_width(static_cast<std::uint64_t>(items[i].lifetime)); }),
      by("conflict degree", [&](int i) { return degree[i]; })};
}

Placement place_in_order(const Problem& problem, std::span<const int> order, Fit fit) {
  Placement placement{std::vector<std::int64_t>(problem.items.size()), 0};
  Shelf shelf(problem.items.size());
  for (const int i : order) {
    const Item& item = problem.items[i];
    placement.offset[i] = shelf.find(item, fit);
    placement.peak = std::max(placement.peak, placement.offset[i] + item.size);
    shelf.insert(item, placement.offset[i]);
  }
  return placement;
}

}  // namespace plimsoll::offsets
