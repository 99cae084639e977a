#include "runtime/plan/offset_problem.hpp"

#include <algorithm>
#include <array>
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

constexpr std::size_t kBlock = 32;

// Buffers that follow each other, by offset.
struct Block {
  std::size_t count = 0;
  std::array<int, kBlock> first, last;  // beyond `count`: never
  std::array<std::int64_t, kBlock> offset{}, end{};

  Block() {
    first.fill(std::numeric_limits<int>::max());
    last.fill(-1);
  }
  // A bit for each buffer that lives with the item. Compilers make a few wide comparisons of it.
  std::uint32_t meeting(const Item& item) const {
    std::uint32_t bits = 0;
    for (std::size_t k = 0; k < kBlock; ++k) {
      const auto begun = std::uint32_t{first[k] <= item.last}, there = std::uint32_t{last[k] >= item.first};
      bits |= (begun & there) << k;
    }
    return bits;
  }
  void insert(const Item& item, std::int64_t at) {
    const auto begin = offset.begin();
    const auto k = std::upper_bound(begin, begin + static_cast<std::ptrdiff_t>(count), at) - begin;
    put(first, k, item.first);
    put(last, k, item.last);
    put(offset, k, at);
    put(end, k, at + item.size);
    ++count;
  }

 private:
  template <class T>
  void put(std::array<T, kBlock>& values, std::ptrdiff_t at, T value) {
    const auto begin = values.begin(), up_to = begin + static_cast<std::ptrdiff_t>(count);
    std::copy_backward(begin + at, up_to, up_to + 1);
    begin[at] = value;
  }
};

// What is known of all buffers of a block.
struct Summary {
  std::uint64_t times = 0;  // when one of them lives: Shelf::times_of()
  int most_first = -1, least_last = std::numeric_limits<int>::max();
  std::int64_t offset = 0, last_offset = 0, most_end = 0;  // offset: of the first
  std::int64_t most_gap = 0;                               // at least the largest gap between them

  void add(const Item& item, std::int64_t at, std::uint64_t times_of_item) {
    const bool empty = times == 0;
    if (!empty && at >= last_offset) most_gap = std::max(most_gap, at - most_end);
    if (!empty && at < offset) most_gap = std::max(most_gap, offset - at - item.size);
    offset = empty ? at : std::min(offset, at);
    last_offset = empty ? at : std::max(last_offset, at);
    most_end = std::max(most_end, at + item.size);
    most_first = std::max(most_first, item.first);
    least_last = std::min(least_last, item.last);
    times |= times_of_item;
  }
};

// Placed buffers by offset: the scan of place_in_order is the hot loop of the portfolio. It passes over blocks of them
// that cannot matter, those that live at other times and those that live with the item and leave no gap for it, and in
// the others over what lives at other times.
class Shelf {
 public:
  explicit Shelf(int sections) : sections_(std::max(1, sections)) {}

  std::int64_t find(const Item& item, Fit fit) const {
    std::int64_t top = 0, best = -1, best_gap = std::numeric_limits<std::int64_t>::max();
    const std::uint64_t times = times_of(item.first, item.last);
    for (std::size_t b = 0; b < summaries_.size(); ++b) {
      const Summary& all = summaries_[b];
      if ((all.times & times) == 0) continue;
      const bool all_meet = all.most_first <= item.last && all.least_last >= item.first;
      if (all_meet && all.most_gap < item.size && all.offset - top < item.size) {
        top = std::max(top, all.most_end);
        continue;
      }
      const Block& block = blocks_[b];
      for (std::uint32_t bits = block.meeting(item); bits != 0; bits &= bits - 1) {
        const auto k = static_cast<std::size_t>(std::countr_zero(bits));
        const std::int64_t gap = block.offset[k] - top;
        if (gap >= item.size && gap < best_gap) {
          best = top;
          best_gap = gap;
          if (fit == Fit::First) return best;
        }
        top = std::max(top, block.end[k]);
      }
    }
    return best >= 0 ? best : top;
  }

  void insert(const Item& item, std::int64_t offset) {
    if (blocks_.empty()) {
      blocks_.emplace_back();
      summaries_.emplace_back();
    }
    const auto after = std::upper_bound(summaries_.begin() + 1, summaries_.end(), offset,
                                        [](std::int64_t at, const Summary& s) { return at < s.offset; });
    auto b = static_cast<std::size_t>(after - summaries_.begin()) - 1;
    if (blocks_[b].count == kBlock) {
      split(b);
      if (offset >= summaries_[b + 1].offset) ++b;
    }
    blocks_[b].insert(item, offset);
    summaries_[b].add(item, offset, times_of(item.first, item.last));
  }

 private:
  void split(std::size_t b) {
    const Block whole = blocks_[b];
    const auto next = static_cast<std::ptrdiff_t>(b) + 1;
    blocks_.insert(blocks_.begin() + next, Block{});
    summaries_.insert(summaries_.begin() + next, Summary{});
    blocks_[b] = {};
    summaries_[b] = {};
    for (std::size_t k = 0; k < kBlock; ++k) {
      const Item item{whole.end[k] - whole.offset[k], whole.first[k], whole.last[k], 0};
      const std::size_t half = b + 2 * k / kBlock;
      blocks_[half].insert(item, whole.offset[k]);
      summaries_[half].add(item, whole.offset[k], times_of(item.first, item.last));
    }
  }

  // A bit for each 64th of all sections in which a buffer lives.
  std::uint64_t times_of(int first, int last) const {
    const std::int64_t begin = std::int64_t{first} * 64 / sections_, end = std::int64_t{last} * 64 / sections_;
    return (~std::uint64_t{0} >> (63 - (end - begin))) << begin;
  }

  std::int64_t sections_;
  std::vector<Block> blocks_;
  std::vector<Summary> summaries_;  // of each block
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

Order portfolio_order(const Problem& problem, int which) {
  const auto& items = problem.items;
  const auto by = [&](std::string name, auto key) {
    return Order{std::move(name), sorted_indices(items.size(), [&](int a, int b) {
                   return std::tuple(key(a), items[a].size) > std::tuple(key(b), items[b].size);
                 })};
  };
  switch (which) {
    case 0: return by("lifetime", [&](int i) { return items[i].lifetime; });
    case 1: return by("size", [&](int i) { return items[i].size; });
    case 2:  // double: an area of large buffers over many positions passes 2^63
      return by("area",
                [&](int i) { return static_cast<double>(items[i].size) * static_cast<double>(items[i].lifetime); });
    case 3:
      return by("log2 lifetime + size",
                [&](int i) { return std::bit_width(static_cast<std::uint64_t>(items[i].lifetime)); });
    default: return by("conflict degree", [degree = conflict_degrees(problem)](int i) { return degree[i]; });
  }
}

Placement place_in_order(const Problem& problem, std::span<const int> order, Fit fit, std::int64_t limit) {
  Placement placement{std::vector<std::int64_t>(problem.items.size()), 0};
  complete(problem, order, 0, fit, limit - 1, placement);
  return placement;
}

std::size_t complete(const Problem& problem, std::span<const int> order, std::size_t placed, Fit fit,
                     std::int64_t capacity, Placement& placement) {
  Shelf shelf(problem.sections);
  placement.peak = 0;
  for (std::size_t k = 0; k < order.size(); ++k) {
    const auto i = static_cast<std::size_t>(order[k]);
    const Item& item = problem.items[i];
    if (k >= placed) placement.offset[i] = shelf.find(item, fit);
    placement.peak = std::max(placement.peak, placement.offset[i] + item.size);
    if (placement.peak > capacity) return k;
    shelf.insert(item, placement.offset[i]);
  }
  return order.size();
}

}  // namespace plimsoll::offsets
