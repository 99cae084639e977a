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

// Placed buffers by offset: the scan of place_in_order is the hot loop of the portfolio. It passes over blocks of them
// that cannot matter: those that live at other times, and those that live with the item and leave no gap for it.
class Shelf {
 public:
  explicit Shelf(int sections) : sections_(std::max(1, sections)) {}

  std::int64_t find(const Item& item, Fit fit) const {
    Scan scan{item.size};
    const std::uint64_t times = times_of(item.first, item.last);
    for (const Block& block : blocks_) {
      if ((block.times & times) == 0) continue;
      const bool all_meet = block.most_first <= item.last && block.least_last >= item.first;
      if (all_meet && block.most_gap < item.size && block.placed.front().offset - scan.top < item.size) {
        scan.top = std::max(scan.top, block.most_end);
        continue;
      }
      for (const Placed& p : block.placed) {
        if (p.first > item.last || p.last < item.first) continue;
        if (scan.pass(p) && fit == Fit::First) return scan.best;
      }
    }
    return scan.best >= 0 ? scan.best : scan.top;
  }

  void insert(const Item& item, std::int64_t offset) {
    if (blocks_.empty()) blocks_.emplace_back();
    auto block = std::upper_bound(blocks_.begin() + 1, blocks_.end(), offset,
                                  [](std::int64_t at, const Block& b) { return at < b.placed.front().offset; }) -
                 1;
    block->insert({offset, offset + item.size, item.first, item.last}, times_of(item.first, item.last));
    if (block->placed.size() < kMostPlaced) return;
    const auto middle = block->placed.begin() + static_cast<std::ptrdiff_t>(kMostPlaced / 2);
    Block below, above;
    for (auto p = block->placed.begin(); p != block->placed.end(); ++p)
      (p < middle ? below : above).insert(*p, times_of(p->first, p->last));
    *block = std::move(below);
    blocks_.insert(block + 1, std::move(above));
  }

 private:
  static constexpr std::size_t kMostPlaced = 32;

  struct Placed {
    std::int64_t offset, end;
    int first, last;
  };

  struct Scan {
    std::int64_t size, top = 0, best = -1, best_gap = std::numeric_limits<std::int64_t>::max();
    // Goes on above a buffer; true where the gap below it is the tightest so far.
    bool pass(const Placed& p) {
      const std::int64_t gap = p.offset - top;
      const bool fits = gap >= size && gap < best_gap;
      if (fits) {
        best = top;
        best_gap = gap;
      }
      top = std::max(top, p.end);
      return fits;
    }
  };

  struct Block {
    std::vector<Placed> placed;  // by offset
    int most_first = -1, least_last = std::numeric_limits<int>::max();
    std::int64_t most_end = 0, most_gap = 0;  // most_gap: at least the largest gap between its buffers
    std::uint64_t times = 0;                  // times_of() its buffers

    void insert(const Placed& p, std::uint64_t times_of_p) {
      times |= times_of_p;
      if (!placed.empty() && p.offset >= placed.back().offset) most_gap = std::max(most_gap, p.offset - most_end);
      if (!placed.empty() && p.offset < placed.front().offset)
        most_gap = std::max(most_gap, placed.front().offset - p.end);
      placed.insert(std::upper_bound(placed.begin(), placed.end(), p.offset,
                                     [](std::int64_t at, const Placed& other) { return at < other.offset; }),
                    p);
      most_first = std::max(most_first, p.first);
      least_last = std::min(least_last, p.last);
      most_end = std::max(most_end, p.end);
    }
  };

  // A bit for each 64th of all sections in which a buffer lives.
  std::uint64_t times_of(int first, int last) const {
    const std::int64_t begin = std::int64_t{first} * 64 / sections_, end = std::int64_t{last} * 64 / sections_;
    return (~std::uint64_t{0} >> (63 - (end - begin))) << begin;
  }

  std::int64_t sections_;
  std::vector<Block> blocks_;
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
  Shelf shelf(problem.sections);
  for (const int i : order) {
    const Item& item = problem.items[i];
    placement.offset[i] = shelf.find(item, fit);
    placement.peak = std::max(placement.peak, placement.offset[i] + item.size);
    shelf.insert(item, placement.offset[i]);
  }
  return placement;
}

}  // namespace plimsoll::offsets
