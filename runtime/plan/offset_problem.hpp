#pragma once
// Internal to offset assignment: the instance in the form the searches work on, and the list placements they share.
//
// Sizes and offsets count units of the alignment. Time is cut into sections: the maximal sets of buffers that live at
// once, in order. Two intervals meet exactly when they share such a set, so sections replace positions everywhere.

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "runtime/plan/offsets.hpp"

namespace plimsoll::offsets {

struct Item {
  std::int64_t size;  // units
  int first;          // sections, inclusive
  int last;
  std::int64_t lifetime;  // positions
};

struct Problem {
  std::vector<Item> items;
  int sections = 0;
  std::vector<std::int64_t> live;  // units, per section
  std::int64_t max_live = 0;       // units
};

struct Placement {
  std::vector<std::int64_t> offset;  // units, one per item
  std::int64_t peak = 0;             // units
};

enum class Fit { First, Best };

struct Order {
  std::string name;
  std::vector<int> items;
};

Problem make_problem(std::span<const Lifetime> lifetimes, std::int64_t alignment);

// The orders of the portfolio, most demanding item first; ties by size, then by index. `which` is below kOrders.
inline constexpr int kOrders = 5;
Order portfolio_order(const Problem& problem, int which);

// Places the items one after another, each in the lowest (First) or the tightest (Best) free range between the buffers
// that live with it, or on top of them. It ends where the peak reaches `limit`: then the placement is of no use.
Placement place_in_order(const Problem& problem, std::span<const int> order, Fit fit,
                         std::int64_t limit = std::numeric_limits<std::int64_t>::max());

// Completes a placement in the same way: the first `placed` items of `order` have their offsets already, the others get
// theirs up to the first that ends above `capacity`. Returns how many of the order lie below; the peak is theirs, and
// that of the one above.
std::size_t complete(const Problem& problem, std::span<const int> order, std::size_t placed, Fit fit,
                     std::int64_t capacity, Placement& placement);

}  // namespace plimsoll::offsets
