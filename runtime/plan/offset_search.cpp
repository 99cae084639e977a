#include "runtime/plan/offset_search.hpp"

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <limits>
#include <numeric>
#include <tuple>
#include <utility>

#include "runtime/core/rng.hpp"

namespace plimsoll::offsets {
namespace {

// 32-bit units keep twice as many buffers in a vector register; larger instances are left to the list placements.
constexpr std::int64_t kLargestCapacity = std::int64_t{1} << 29;
constexpr std::size_t kLargestPart = 2048;  // buffers: the search keeps a part per depth
constexpr std::int64_t kFirstRestart = 16'000;
constexpr int kNever = std::numeric_limits<int>::max() / 2;

// The unplaced items of one part as parallel arrays, in the order of their ranks.
struct Part {
  std::vector<int> id, size, first, last;
  std::vector<int> lowest;  // the lowest offset above what is placed

  int count() const { return static_cast<int>(id.size()); }
  void clear() {
    for (auto* column : {&id, &size, &first, &last, &lowest}) column->clear();
  }
  void push(const Part& from, int k) {
    id.push_back(from.id[k]);
    size.push_back(from.size[k]);
    first.push_back(from.first[k]);
    last.push_back(from.last[k]);
    lowest.push_back(from.lowest[k]);
  }
};

// One descent over the items of a part, whose indices are their ranks. After each placement the rest falls apart where
// no unplaced item crosses two sections, and the pieces are solved one after another: a piece that cannot be solved
// refutes the placement, however the others look.
class Descent {
 public:
  enum class Outcome { Found, Exhausted, OutOfNodes };

  Descent(const Problem& problem, std::span<const int> ranked, int first_section, int sections, int capacity)
      : capacity_(capacity), load_(sections), reach_(sections), offset_(ranked.size()) {
    for (const int i : ranked) {
      const Item& item = problem.items[i];
      root_.id.push_back(root_.count());
      root_.size.push_back(static_cast<int>(item.size));
      root_.first.push_back(item.first - first_section);
      root_.last.push_back(item.last - first_section);
      root_.lowest.push_back(0);
    }
  }

  Outcome run(std::int64_t& nodes) {
    nodes_ = nodes;
    const Outcome outcome = visit(root_, 0, -1, 0);
    nodes = nodes_;
    return outcome;
  }

  const std::vector<int>& offset() const { return offset_; }

 private:
  // What one level of the recursion needs; kept between visits for its memory.
  struct Level {
    Part rest, piece;
    std::vector<std::pair<int, int>> pieces;  // sections, inclusive
    std::vector<std::pair<int, int>> candidates;
  };

  Level& level(std::size_t depth) {
    while (levels_.size() <= depth) levels_.emplace_back();
    return levels_[depth];  // a deque: the reference outlives deeper levels
  }

  Outcome visit(const Part& part, int floor, int rank, std::size_t depth) {
    if (part.count() == 0) return Outcome::Found;
    nodes_ -= 1 + part.count() / 32;
    if (nodes_ < 0) return Outcome::OutOfNodes;
    if (!raise_bounds(part, floor, rank) || !sections_hold(part)) return Outcome::Exhausted;
    Level& here = level(depth);
    find_candidates(part, floor, rank, here.candidates);
    for (const auto& [at, k] : here.candidates) {
      place(part, k, at, here.rest);
      const Outcome outcome = visit_pieces(here, at, part.id[k], depth);
      if (outcome != Outcome::Exhausted) return outcome;
    }
    return Outcome::Exhausted;
  }

  Outcome visit_pieces(Level& here, int floor, int rank, std::size_t depth) {
    const Part& rest = here.rest;
    if (rest.count() == 0) return Outcome::Found;
    cut(rest, here.pieces);
    if (here.pieces.size() == 1) return visit(rest, floor, rank, depth + 1);
    for (const auto& [first, last] : here.pieces) {
      here.piece.clear();
      for (int k = 0; k < rest.count(); ++k) {
        if (rest.first[k] >= first && rest.first[k] <= last) here.piece.push(rest, k);
      }
      const Outcome outcome = visit(here.piece, floor, rank, depth + 1);
      if (outcome != Outcome::Found) return outcome;
    }
    return Outcome::Found;
  }

  // The ranges of sections between which no item of `part` crosses, those with the fewest sections first: they fail
  // or pass at the least cost.
  void cut(const Part& part, std::vector<std::pair<int, int>>& pieces) {
    std::fill(reach_.begin(), reach_.end(), -1);
    for (int k = 0; k < part.count(); ++k) reach_[part.first[k]] = std::max(reach_[part.first[k]], part.last[k]);
    pieces.clear();
    int end = -1;
    for (int s = 0; s < static_cast<int>(reach_.size()); ++s) {
      if (reach_[s] < 0) continue;
      if (s > end) pieces.emplace_back(s, s);
      end = std::max(end, reach_[s]);
      pieces.back().second = end;
    }
    std::stable_sort(pieces.begin(), pieces.end(),
                     [](const auto& a, const auto& b) { return a.second - a.first < b.second - b.first; });
  }

  void place(const Part& part, int k, int at, Part& rest) {
    const int top = at + part.size[k];
    const int first = part.first[k];
    const int last = part.last[k];
    rest = part;
    for (int j = 0; j < part.count(); ++j) {
      const int meets = int{part.first[j] <= last} & int{part.last[j] >= first};  // no branch: vector code
      rest.lowest[j] = meets != 0 ? std::max(part.lowest[j], top) : part.lowest[j];
    }
    for (auto* column : {&rest.id, &rest.size, &rest.first, &rest.last, &rest.lowest})
      column->erase(column->begin() + k);
    offset_[part.id[k]] = at;
  }

  static bool passed_over(int at, int id, int floor, int rank) { return at < floor || (at == floor && id < rank); }

  // bound_: the lowest offset each item can still get. A passed-over one must be lifted by a neighbour; false when
  // there is none.
  bool raise_bounds(const Part& part, int floor, int rank) {
    const int count = part.count();
    bound_.resize(count);
    top_.resize(count);
    for (int j = 0; j < count; ++j) {
      bound_[j] = std::max(part.lowest[j], floor);
      top_[j] = bound_[j] + part.size[j];
    }
    for (int j = 0; j < count; ++j) {
      if (!passed_over(part.lowest[j], part.id[j], floor, rank)) continue;
      const int own = std::exchange(top_[j], kNever);
      int support = kNever;
      for (int k = 0; k < count; ++k) {
        const int meets = int{part.first[k] <= part.last[j]} & int{part.last[k] >= part.first[j]};
        support = std::min(support, meets != 0 ? top_[k] : kNever);
      }
      top_[j] = own;
      if (support + part.size[j] > capacity_) return false;
      bound_[j] = std::max(bound_[j], support);
    }
    return true;
  }

  bool sections_hold(const Part& part) {
    by_bound_.clear();
    for (int j = 0; j < part.count(); ++j) by_bound_.emplace_back(bound_[j], j);
    std::sort(by_bound_.begin(), by_bound_.end(), std::greater<>());
    std::fill(load_.begin(), load_.end(), 0);
    for (const auto& [bound, j] : by_bound_) {
      const int size = part.size[j];
      int heaviest = 0;
      for (int s = part.first[j]; s <= part.last[j]; ++s) heaviest = std::max(heaviest, load_[s] += size);
      if (heaviest > capacity_ - bound) return false;
    }
    return true;
  }

  void find_candidates(const Part& part, int floor, int rank, std::vector<std::pair<int, int>>& found) const {
    int sink = kNever;
    for (int j = 0; j < part.count(); ++j) sink = std::min(sink, part.lowest[j] + part.size[j]);
    found.clear();
    for (int j = 0; j < part.count(); ++j) {
      const int at = part.lowest[j];
      if (at < sink && !passed_over(at, part.id[j], floor, rank)) found.emplace_back(at, j);
    }
    std::sort(found.begin(), found.end());
  }

  int capacity_;
  std::int64_t nodes_ = 0;
  Part root_;
  std::deque<Level> levels_;
  std::vector<int> bound_, top_, load_, reach_;
  std::vector<std::pair<int, int>> by_bound_;
  std::vector<int> offset_;
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

  // Ranks of one restart: by lifetime, by pressure (the fullest section an item lives in) then area, by pressure then
  // lifetime; later rounds shake these keys.
  std::vector<int> ranks(const std::vector<int>& items, int restart) {
    const double noise = restart < 3 ? 0.0 : 0.25;
    const auto shaken = [&](double value) {
      return noise == 0.0 ? value : value * std::exp(noise * (2.0 * random_.uniform(draw_++) - 1.0));
    };
    std::vector<std::tuple<double, double, double, int>> keyed;
    for (const int i : items) {
      const Item& item = problem_.items[i];
      const auto live = problem_.live.begin();
      const double pressure = shaken(static_cast<double>(*std::max_element(live + item.first, live + item.last + 1)));
      const double length = shaken(static_cast<double>(item.lifetime));
      const double area = length * static_cast<double>(item.size);
      if (restart % 3 == 0) keyed.emplace_back(-length, -area, -pressure, i);
      if (restart % 3 == 1) keyed.emplace_back(-pressure, -area, -length, i);
      if (restart % 3 == 2) keyed.emplace_back(-pressure, -length, -area, i);
    }
    std::sort(keyed.begin(), keyed.end());
    std::vector<int> ranked;
    for (const auto& entry : keyed) ranked.push_back(std::get<3>(entry));
    return ranked;
  }

  bool descend(const std::vector<int>& items, int first, int last, std::int64_t base) {
    if (items.size() > kLargestPart) return false;
    std::int64_t limit = kFirstRestart;
    for (int restart = 0; nodes_ > 0; ++restart, limit += limit / 32) {
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
