#pragma once
// The median of measurements.

#include <algorithm>
#include <vector>

namespace plimsoll {

// The upper one of an even number; of at least one.
inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace plimsoll
