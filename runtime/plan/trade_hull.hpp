#pragma once
// The lower left hull of choices that save bytes and cost time.

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <vector>

namespace plimsoll {

// Of choices with bytes_of(choice) and cost_of(choice), those on the hull, from the cheapest on: bytes fall, and every
// further byte costs no less than the one before. Of equal ones the first.
template <class Choice, class BytesOf, class CostOf>
std::vector<Choice> trade_hull(std::vector<Choice> choices, BytesOf bytes_of, CostOf cost_of) {
  std::stable_sort(choices.begin(), choices.end(), [&](const Choice& a, const Choice& b) {
    return std::tuple(cost_of(a), bytes_of(a)) < std::tuple(cost_of(b), bytes_of(b));
  });
  const auto steepness = [&](const Choice& a, const Choice& b) {
    return static_cast<double>(cost_of(b) - cost_of(a)) / static_cast<double>(bytes_of(a) - bytes_of(b));
  };
  std::vector<Choice> corners;
  for (const Choice& choice : choices) {
    if (!corners.empty() && bytes_of(choice) >= bytes_of(corners.back())) continue;
    while (corners.size() >= 2) {
      const Choice& before = *(corners.end() - 2);
      if (steepness(before, corners.back()) < steepness(before, choice)) break;
      corners.pop_back();
    }
    corners.push_back(choice);
  }
  return corners;
}

}  // namespace plimsoll
