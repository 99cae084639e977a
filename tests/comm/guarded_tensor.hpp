#pragma once
// The values that the collectives' suite sends around, and tensors that notice what is written behind them.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "comm/group.hpp"

namespace plimsoll {

// What the suite computes in, and prints: elements of 16 bits as f32.
template <class T>
using SuiteWide = std::conditional_t<sizeof(T) == 2, float, T>;

template <class T>
bool same_bits(T a, T b) {
  using Bits = std::array<std::byte, sizeof(T)>;
  return std::bit_cast<Bits>(a) == std::bit_cast<Bits>(b);
}

// Rank r's element i. Floats of many magnitudes, so that another order of summation gives other bits.
template <class T>
T suite_value(int rank, std::int64_t i) {
  std::uint64_t h = (static_cast<std::uint64_t>(i) * 64 + static_cast<std::uint64_t>(rank) + 1) * 0x9E3779B97F4A7C15U;
  h ^= h >> 29;
  const auto integer = static_cast<std::int32_t>(h % 2000003U) - 1000001;
  if constexpr (std::is_integral_v<T>) return integer;
  return static_cast<T>(
      static_cast<SuiteWide<T>>(std::ldexp(static_cast<double>(integer) / 1000001.0, static_cast<int>(h >> 60))));
}

template <class T>
T suite_reduced(int ranks, std::int64_t i, ReduceOp op) {
  auto total = static_cast<SuiteWide<T>>(suite_value<T>(0, i));
  for (int r = 1; r < ranks; ++r) {
    const auto next = static_cast<SuiteWide<T>>(suite_value<T>(r, i));
    total = op == ReduceOp::Sum ? total + next : std::max(total, next);
  }
  return static_cast<T>(total);
}

// A tensor with one element behind it that nobody may touch.
template <class T>
struct Guarded {
  inline static const T kGuard{77};
  std::vector<T> all;
  explicit Guarded(std::int64_t n) : all(static_cast<std::size_t>(n) + 1, T{0}) { all.back() = kGuard; }
  std::int64_t size() const { return static_cast<std::int64_t>(all.size()) - 1; }
  T& operator[](std::int64_t i) { return all[static_cast<std::size_t>(i)]; }
  View view(std::int64_t first, std::int64_t n) { return {all.data() + first, {{n}, dtype_of<T>()}}; }
  View view() { return view(0, size()); }
  void fill(int rank, std::int64_t first = 0) {
    for (std::int64_t i = 0; i < size(); ++i) (*this)[i] = suite_value<T>(rank, first + i);
  }
  // A fault's text when an element differs by a bit from expected(i), or the guard was touched.
  template <class Expected>
  std::string compare(const std::string& what, const Expected& expected) {
    for (std::int64_t i = 0; i < size(); ++i) {
      const T e = expected(i);
      if (!same_bits((*this)[i], e)) {
        return fmt::format("{} of {} {}: element {} is {}, not {}\n", what, size(), dtype_name(dtype_of<T>()), i,
                           static_cast<SuiteWide<T>>((*this)[i]), static_cast<SuiteWide<T>>(e));
      }
    }
    return same_bits(all.back(), kGuard) ? "" : fmt::format("{} wrote behind its {} elements\n", what, size());
  }
};

}  // namespace plimsoll
