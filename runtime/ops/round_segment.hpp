#pragma once
// Stochastic rounding to bf16 (Gupta et al. 2015, "Deep Learning with Limited Numerical Precision"): up or down with
// the probabilities that make the mean of many roundings the number itself. The random numbers are a function of the
// run's seed, the tensor, the element of it and the number of the update, so that every layout and backend rounds
// alike, and a resumed run as the one before. Without fmt: device code includes it.

#include <cstdint>
#include <string>

#include "runtime/core/rng.hpp"

namespace plimsoll {

// Elements [offset, offset + elements) of a flat buffer, and which ones they are of a checkpoint tensor. They are
// neighbours in a parameter, a matrix of `columns` in which the first of them is number `first`. The rectangle from
// (at_row, at_column) on of rows × part_columns there is that from (row, column) on of the tensor, a matrix of
// tensor_rows × tensor_columns; elements beside it are of another segment.
struct RoundSegment {
  std::int64_t offset = 0, elements = 0;
  std::int64_t first = 0, columns = 1;
  std::int64_t at_row = 0, at_column = 0, rows = 0, part_columns = 1;
  std::int64_t row = 0, column = 0, tensor_rows = 0, tensor_columns = 1;
  std::uint64_t stream = 0;  // rounding_stream() of the tensor
};

// Whether rows of the rectangle lie behind each other in the parameter and in the tensor.
constexpr bool whole_rows(const RoundSegment& s) {
  return s.part_columns == s.columns && s.part_columns == s.tensor_columns;
}
// The place of element i of a segment in its tensor; -1: it is beside the rectangle.
constexpr std::int64_t tensor_element(const RoundSegment& s, std::int64_t i) {
  const std::int64_t at = s.first + i, r = at / s.columns - s.at_row, c = at % s.columns - s.at_column;
  const bool inside = r >= 0 && r < s.rows && c >= 0 && c < s.part_columns;
  return inside ? (s.row + r) * s.tensor_columns + s.column + c : -1;
}

// Apart from the stream of the tensor's initial values.
inline std::uint64_t rounding_stream(const std::string& tensor) { return stream_id("rounding of " + tensor); }
// The entry of a tensor's stream for its element `index`; `update`: how many were applied, with this one.
constexpr std::uint64_t rounding_entry(std::int64_t tensor_elements, std::uint64_t update, std::int64_t index) {
  return update * static_cast<std::uint64_t>(tensor_elements) + static_cast<std::uint64_t>(index);
}

// The bits of a bf16 from those of a float and of a random number. Infinities stay, NaN stays one.
constexpr std::uint16_t round_stochastic(std::uint32_t number, std::uint32_t random) {
  constexpr std::uint32_t kExponent = 0x7F800000U, kMantissa = 0x007FFFFFU;
  const bool finite = (number & kExponent) != kExponent;
  const std::uint32_t quiet = !finite && (number & kMantissa) != 0 ? 0x00400000U : 0U;
  return static_cast<std::uint16_t>(((finite ? number + (random & 0xFFFFU) : number) | quiet) >> 16);
}

}  // namespace plimsoll
