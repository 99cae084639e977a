#include "runtime/plan/offset_windows.hpp"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "runtime/plan/offset_search.hpp"

namespace plimsoll::offsets {
namespace {

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
    placement.peak = solved->peak;
    const std::size_t placed = complete(problem, order, inside, capacity, placement);
    if (placed == order.size()) return placement;
    nodes -= static_cast<std::int64_t>(placed - inside);
  }
  return std::nullopt;
}

}  // namespace plimsoll::offsets
