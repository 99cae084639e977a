#include "runtime/plan/offset_peaks.hpp"

#include <algorithm>
#include <numeric>
#include <set>
#include <tuple>
#include <utility>

#include "runtime/core/rng.hpp"
#include "runtime/plan/offset_search.hpp"

namespace plimsoll::offsets {
namespace {

constexpr int kMoves = 12;                      // of a buffer that finds no room around the peaks
constexpr std::int64_t kPlacementsOfNode = 16;  // placements by first fit cost as much as one visited node

std::vector<int> sorted(std::size_t count, auto key) {
  std::vector<int> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return key(a) > key(b); });
  return order;
}

// Of the sections that an item lives in.
int fullest_section(const Problem& problem, const Item& item) {
  const auto live = problem.live.begin();
  return static_cast<int>(std::max_element(live + item.first, live + item.last + 1) - live);
}

// By the fullest section that an item lives in.
std::vector<int> order_around(const Problem& problem) {
  std::vector<std::int64_t> fullest;
  fullest.reserve(problem.items.size());
  for (const Item& item : problem.items)
    fullest.push_back(problem.live[static_cast<std::size_t>(fullest_section(problem, item))]);
  return sorted(problem.items.size(), [&](int i) {
    const Item& item = problem.items[static_cast<std::size_t>(i)];
    return std::tuple(fullest[static_cast<std::size_t>(i)], item.lifetime, item.size);
  });
}

// Whether an item lives in one of the sections.
bool meets(const std::set<int>& sections, const Item& item) {
  const auto next = sections.lower_bound(item.first);
  return next != sections.end() && *next <= item.last;
}

// Some of the items, with all sections in which two of them may meet, also those between the peaks.
Problem part_of(const Problem& problem, std::span<const int> inside) {
  std::vector<Lifetime> lives;
  lives.reserve(inside.size());
  for (const int i : inside) {
    const Item& item = problem.items[static_cast<std::size_t>(i)];
    lives.push_back({item.size, item.first, item.last});
  }
  return make_problem(lives, 1);
}

// Where buffer order[k] moves to, for which there was no room: before 1, 2, 4, … of those that live with it and were
// placed around the peaks last. 0: there are none.
std::size_t earlier_place(const Problem& problem, std::span<const int> order, std::size_t inside, std::size_t k,
                          const RandomStream& random, std::uint64_t& draw) {
  const auto at = [&](std::size_t j) -> const Item& { return problem.items[static_cast<std::size_t>(order[j])]; };
  std::vector<std::size_t> beside;
  for (std::size_t j = inside; j < k; ++j) {
    if (at(j).first <= at(k).last && at(j).last >= at(k).first) beside.push_back(j);
  }
  if (beside.empty()) return 0;
  std::size_t back = 1;
  while (back < beside.size() && random.bits(draw++) % 4 != 0) back *= 2;
  return beside[beside.size() - std::min(back, beside.size())];
}

// Places what follows the first `inside` of the order, which have their places. Where a buffer finds no room, it moves
// forward and all start again. Returns the one that has moved too often, cannot move or was the last before `nodes`
// were used up, and nullopt where all have found room.
std::optional<int> place_around(const Problem& problem, std::vector<int> order, std::size_t inside,
                                std::int64_t capacity, Placement& placement, std::int64_t& nodes) {
  const RandomStream random(0, "around the peak");
  std::uint64_t draw = 0;
  std::vector<int> moves(problem.items.size());
  while (true) {
    const std::size_t k = complete(problem, order, inside, Fit::First, capacity, placement);
    if (k == order.size()) return std::nullopt;
    nodes -= 1 + static_cast<std::int64_t>(k) / kPlacementsOfNode;
    const std::size_t to = earlier_place(problem, order, inside, k, random, draw);
    if (to == 0 || nodes <= 0 || ++moves[static_cast<std::size_t>(order[k])] == kMoves) return order[k];
    const auto begin = order.begin();
    std::rotate(begin + static_cast<std::ptrdiff_t>(to), begin + static_cast<std::ptrdiff_t>(k),
                begin + static_cast<std::ptrdiff_t>(k) + 1);
  }
}

}  // namespace

std::optional<Placement> search_peaks(const Problem& problem, std::int64_t capacity, std::int64_t& nodes) {
  const auto at = [&](int i) -> const Item& { return problem.items[static_cast<std::size_t>(i)]; };
  const std::vector<int> around = order_around(problem);
  // A search puts what spans its sections at the bottom in the order of the items.
  const std::vector<int> by_lifetime =
      sorted(problem.items.size(), [&](int i) { return std::tuple(at(i).lifetime, at(i).size); });
  Placement placement{std::vector<std::int64_t>(problem.items.size()), 0};
  std::set<int> peaks{fullest_section(problem, {0, 0, problem.sections - 1, 0})};
  while (nodes > 0) {
    std::vector<int> order;
    std::copy_if(by_lifetime.begin(), by_lifetime.end(), std::back_inserter(order),
                 [&](int i) { return meets(peaks, at(i)); });
    const std::size_t inside = order.size();
    const auto solved = search(part_of(problem, order), capacity, nodes);
    if (!solved) return std::nullopt;
    for (std::size_t k = 0; k < inside; ++k) placement.offset[static_cast<std::size_t>(order[k])] = solved->offset[k];
    std::copy_if(around.begin(), around.end(), std::back_inserter(order), [&](int i) { return !meets(peaks, at(i)); });
    const auto stuck = place_around(problem, std::move(order), inside, capacity, placement, nodes);
    if (!stuck) return placement;
    peaks.insert(fullest_section(problem, at(*stuck)));
  }
  return std::nullopt;
}

}  // namespace plimsoll::offsets
