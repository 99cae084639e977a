#include "runtime/plan/offsets.hpp"

#include <algorithm>

#include "runtime/core/error.hpp"
#include "runtime/core/rng.hpp"
#include "runtime/plan/offset_peaks.hpp"
#include "runtime/plan/offset_problem.hpp"
#include "runtime/plan/offset_search.hpp"

namespace plimsoll {
namespace {

using offsets::Fit;
using offsets::Placement;
using offsets::Problem;

constexpr std::int64_t kClimbShare = 16;  // one node in so many goes to hill climbing: the search gains more from it
constexpr std::int64_t kPeakShare = 4;    // one node in so many goes to the buffers of peaks alone

struct Best {
  Placement placement;
  std::vector<int> order;  // what place_in_order made it from
  Fit fit = Fit::First;
  std::string method;
};

void check_arguments(std::span<const Lifetime> lifetimes, const OffsetOptions& options) {
  require(options.alignment > 0 && options.max_nodes >= 0 && options.capacity >= 0 && options.enough >= 0,
          ErrorKind::Internal, "offset assignment: alignment {}, max_nodes {} or capacity {} is out of range",
          options.alignment, options.max_nodes, options.capacity);
  for (std::size_t i = 0; i < lifetimes.size(); ++i) {
    const Lifetime& l = lifetimes[i];
    require(l.bytes > 0 && l.last >= l.first, ErrorKind::Internal,
            "offset assignment: lifetime {} has {} bytes in positions {}..{}", i, l.bytes, l.first, l.last);
  }
}

// One on top of the other.
Best stacked(const Problem& problem) {
  Best best{{}, {}, Fit::First, "stacked"};
  for (const offsets::Item& item : problem.items) {
    best.placement.offset.push_back(best.placement.peak);
    best.placement.peak += item.size;
  }
  return best;
}

Best run_portfolio(const Problem& problem, std::int64_t target) {
  Best best;
  best.placement.peak = std::numeric_limits<std::int64_t>::max();
  for (int which = 0; which < offsets::kOrders; ++which) {
    const offsets::Order order = offsets::portfolio_order(problem, which);
    for (const Fit fit : {Fit::First, Fit::Best}) {
      Placement placement = offsets::place_in_order(problem, order.items, fit, best.placement.peak);
      if (placement.peak >= best.placement.peak) continue;
      best = {std::move(placement), order.items, fit, order.name + (fit == Fit::First ? ", first fit" : ", best fit")};
      if (best.placement.peak <= target) return best;
    }
  }
  return best;
}

// One step: a random one of the items that reach the peak moves to a random earlier place in the order. Sideways steps
// are kept, because many orders share a peak. A node is the placement of one item.
void climb(const Problem& problem, std::int64_t target, std::int64_t max_nodes, Best& best) {
  const auto count = static_cast<std::int64_t>(problem.items.size());
  const RandomStream random(0, "hill climbing");
  std::vector<int> order = best.order;
  Placement current = best.placement;
  std::uint64_t draw = 0;
  for (std::int64_t nodes = 0; nodes + count <= max_nodes && best.placement.peak > target; nodes += count) {
    std::vector<std::size_t> culprits;
    for (std::size_t k = 1; k < order.size(); ++k) {
      if (current.offset[order[k]] + problem.items[order[k]].size > target) culprits.push_back(k);
    }
    if (culprits.empty()) return;
    const std::size_t from = culprits[random.bits(draw++) % culprits.size()];
    const std::size_t to = random.bits(draw++) % from;
    std::vector<int> moved = order;
    std::rotate(moved.begin() + to, moved.begin() + from, moved.begin() + from + 1);
    Placement placement = offsets::place_in_order(problem, moved, best.fit, current.peak + 1);
    if (placement.peak > current.peak) continue;
    order = std::move(moved);
    current = std::move(placement);
    if (current.peak < best.placement.peak) best = {current, order, best.fit, "hill climbing"};
  }
}

// First the target itself, with two thirds of the nodes; then the range between it and the best known peak is halved, a
// quarter of what is left for each question, until one unit or no nodes are left.
void search_down(const Problem& problem, std::int64_t target, std::int64_t max_nodes, Best& best) {
  std::int64_t left = max_nodes;
  std::int64_t low = target;
  std::int64_t capacity = target;
  std::int64_t share = left - left / 3;
  while (share > 0 && best.placement.peak > target && low < best.placement.peak) {
    std::int64_t nodes = share;
    std::int64_t for_peaks = nodes / kPeakShare;
    nodes -= for_peaks;
    auto placement = offsets::search_peaks(problem, capacity, for_peaks);
    nodes += for_peaks;
    const char* method = placement ? "search around the peak" : "search";
    if (!placement) placement = offsets::search(problem, capacity, nodes);
    left -= share - nodes;
    if (placement) {
      best = {std::move(*placement), {}, best.fit, method};
    } else {
      low = capacity + 1;
    }
    capacity = low + (best.placement.peak - low) / 2;
    share = left / 4;
  }
}

}  // namespace

Offsets assign_offsets(std::span<const Lifetime> lifetimes, const OffsetOptions& options) {
  check_arguments(lifetimes, options);
  if (lifetimes.empty()) return {{}, 0, 0, true, "empty"};
  const Problem problem = offsets::make_problem(lifetimes, options.alignment);
  const std::int64_t target = std::max(problem.max_live, options.capacity / options.alignment);
  const std::int64_t enough = options.enough / options.alignment;
  // The last buffer of a placement may end within its last unit: what is not within `enough` rounded down may be.
  const std::int64_t most = (options.enough + options.alignment - 1) / options.alignment;
  const bool hopeless = options.enough > 0 && problem.max_live > most;
  Best best = hopeless ? stacked(problem) : run_portfolio(problem, std::max(target, enough));
  if (!hopeless && best.placement.peak > enough) {
    const std::int64_t climbing = options.max_nodes / kClimbShare;
    climb(problem, target, climbing, best);
    search_down(problem, target, options.max_nodes - climbing, best);
  }

  Offsets answer{{}, 0, problem.max_live * options.alignment, best.placement.peak == problem.max_live, best.method};
  answer.offset.reserve(lifetimes.size());
  for (std::size_t i = 0; i < lifetimes.size(); ++i) {
    answer.offset.push_back(best.placement.offset[i] * options.alignment);
    answer.peak_bytes = std::max(answer.peak_bytes, answer.offset[i] + lifetimes[i].bytes);
  }
  return answer;
}

}  // namespace plimsoll
