#include "runtime/plan/offset_windows.hpp"

#include <algorithm>
#include <numeric>
#include <tuple>
#include <utility>

#include "runtime/core/rng.hpp"
#include "runtime/plan/offset_search.hpp"

namespace plimsoll::offsets {
namespace {

constexpr int kAttempts = 256;                  // of placing the buffers around one window
constexpr std::int64_t kPlacementsOfNode = 16;  // placements by first fit cost as much as one visited node

std::vector<int> sorted(std::size_t count, auto key) {
  std::vector<int> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return key(a) > key(b); });
  return order;
}

// By the fullest section that an item lives in.
std::vector<int> order_around(const Problem& problem) {
  std::vector<std::int64_t> fullest;
  fullest.reserve(problem.items.size());
  const auto live = problem.live.begin();
  for (const Item& item : problem.items) fullest.push_back(*std::max_element(live + item.first, live + item.last + 1));
  return sorted(problem.items.size(), [&](int i) {
    const Item& item = problem.items[static_cast<std::size_t>(i)];
    return std::tuple(fullest[static_cast<std::size_t>(i)], item.lifetime, item.size);
  });
}

struct Window {
  int first, last;  // sections
  bool meets(const Item& item) const { return item.first <= last && item.last >= first; }
};

// The items that live in the window, cut to it.
Problem cut_to(const Problem& problem, std::span<const int> inside, const Window& window) {
  Problem part;
  for (const int i : inside) {
    const Item& item = problem.items[static_cast<std::size_t>(i)];
    const int first = std::max(item.first, window.first) - window.first;
    const int last = std::min(item.last, window.last) - window.first;
    part.items.push_back({item.size, first, last, last - first + 1});
  }
  part.sections = window.last - window.first + 1;
  part.live.assign(problem.live.begin() + window.first, problem.live.begin() + window.last + 1);
  part.max_live = problem.max_live;
  return part;
}

// Where buffer order[k] moves to, for which there was no room: before 1, 2, 4, … of those that live with it and were
// placed around the window last. 0: there are none.
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
// forward and all start again.
bool place_around(const Problem& problem, std::vector<int> order, std::size_t inside, std::int64_t capacity,
                  Placement& placement, std::int64_t& nodes) {
  const RandomStream random(0, "around the peak");
  std::uint64_t draw = 0;
  for (int attempt = 0; attempt < kAttempts && nodes > 0; ++attempt) {
    const std::size_t k = complete(problem, order, inside, Fit::First, capacity, placement);
    if (k == order.size()) return true;
    nodes -= 1 + static_cast<std::int64_t>(k) / kPlacementsOfNode;
    const std::size_t to = earlier_place(problem, order, inside, k, random, draw);
    if (to == 0) return false;
    const auto begin = order.begin();
    std::rotate(begin + static_cast<std::ptrdiff_t>(to), begin + static_cast<std::ptrdiff_t>(k),
                begin + static_cast<std::ptrdiff_t>(k) + 1);
  }
  return false;
}

}  // namespace

std::optional<Placement> search_windows(const Problem& problem, std::int64_t capacity, std::int64_t& nodes) {
  const auto at = [&](int i) -> const Item& { return problem.items[static_cast<std::size_t>(i)]; };
  const auto fullest = std::max_element(problem.live.begin(), problem.live.end()) - problem.live.begin();
  const std::vector<int> around = order_around(problem);
  // A search puts what spans its sections at the bottom in the order of the items.
  const std::vector<int> by_lifetime =
      sorted(problem.items.size(), [&](int i) { return std::tuple(at(i).lifetime, at(i).size); });
  Placement placement{std::vector<std::int64_t>(problem.items.size()), 0};
  for (int reach = 0; nodes > 0; reach = 2 * reach + 1) {
    const Window window{std::max(0, static_cast<int>(fullest) - reach),
                        std::min(problem.sections - 1, static_cast<int>(fullest) + reach)};
    if (window.last - window.first + 1 == problem.sections) return std::nullopt;  // that is no window
    std::vector<int> order;
    std::copy_if(by_lifetime.begin(), by_lifetime.end(), std::back_inserter(order),
                 [&](int i) { return window.meets(at(i)); });
    const std::size_t inside = order.size();
    const auto solved = search(cut_to(problem, order, window), capacity, nodes);
    if (!solved) return std::nullopt;
    for (std::size_t k = 0; k < inside; ++k) placement.offset[static_cast<std::size_t>(order[k])] = solved->offset[k];
    std::copy_if(around.begin(), around.end(), std::back_inserter(order), [&](int i) { return !window.meets(at(i)); });
    if (place_around(problem, std::move(order), inside, capacity, placement, nodes)) return placement;
  }
  return std::nullopt;
}

}  // namespace plimsoll::offsets
