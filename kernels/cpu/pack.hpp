#pragma once
// Packing blocks of a matrix for kernels that multiply tiles. Packed are words of 32 bits: floats, or for kernels that
// multiply bf16 pairs two bf16 that follow each other in depth, the first one low.

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/cast.hpp"
#include "kernels/cpu/simd.hpp"

namespace plimsoll {

inline constexpr std::int64_t kAllWhole = INT64_MAX;

// Word (i, j) is element (i, j) of rows `stride` apart, as float.
template <class T>
struct WidenedWords {
  const T* from;
  std::int64_t stride;
  static constexpr std::int64_t whole_rows = kAllWhole,
                                whole_columns = kAllWhole;  // where words may be loaded together

  float word(std::int64_t i, std::int64_t j) const { return widen(from[i * stride + j]); }
  simd::Vector<float> load(std::int64_t i, std::int64_t j) const {
    const T* at = from + i * stride + j;
    if constexpr (kIsHalf<T>) {
      alignas(simd::kVectorBytes) float numbers[simd::kLanes<float>];
#pragma omp simd
      for (std::int64_t l = 0; l < simd::kLanes<float>; ++l) numbers[l] = widen(at[l]);
      return simd::load(numbers);
    } else {
      return simd::load(at);
    }
  }
};

// Word (i, j) is the pair of elements 2j and 2j + 1 of row i; an element beyond `depth` is 0.
struct PairsInRows {
  PairsInRows(const bf16* p, std::int64_t row_stride, std::int64_t depth_of_rows)
      : from(p), stride(row_stride), depth(depth_of_rows), whole_columns(depth_of_rows / 2) {}
  const bf16* from;
  std::int64_t stride, depth;
  static constexpr std::int64_t whole_rows = kAllWhole;
  std::int64_t whole_columns;

  float word(std::int64_t i, std::int64_t j) const {
    const bf16* at = from + i * stride + 2 * j;
    const std::uint32_t high = 2 * j + 1 < depth ? at[1].bits : 0U;
    return std::bit_cast<float>(at[0].bits | high << 16);
  }
  simd::Vector<float> load(std::int64_t i, std::int64_t j) const {
    simd::Vector<float> words;
    std::memcpy(&words, from + i * stride + 2 * j, sizeof(words));
    return words;
  }
};

// Word (i, j) is the pair of element j of rows 2i and 2i + 1; an element of a row beyond `depth` is 0.
struct PairsOfRows {
  PairsOfRows(const bf16* p, std::int64_t row_stride, std::int64_t depth_of_columns)
      : from(p), stride(row_stride), depth(depth_of_columns), whole_rows(depth_of_columns / 2) {}
  const bf16* from;
  std::int64_t stride, depth, whole_rows;
  static constexpr std::int64_t whole_columns = kAllWhole;

  float word(std::int64_t i, std::int64_t j) const {
    const bf16* at = from + 2 * i * stride + j;
    const std::uint32_t high = 2 * i + 1 < depth ? at[stride].bits : 0U;
    return std::bit_cast<float>(at[0].bits | high << 16);
  }
  simd::Vector<float> load(std::int64_t i, std::int64_t j) const {
    using Bits = simd::Vector<std::uint32_t>;
    using Halves [[gnu::vector_size(simd::kVectorBytes / 2)]] = std::uint16_t;
    const bf16* at = from + 2 * i * stride + j;
    Halves low, high;
    std::memcpy(&low, at, sizeof(low));
    std::memcpy(&high, at + stride, sizeof(high));
    return (simd::Vector<float>)(__builtin_convertvector(low, Bits) | __builtin_convertvector(high, Bits) << 16);
  }
};

// to[i][j], or with kTransposed to[j][i], = word (i, j) for i below `rows` and j below `columns`; rows of `to` are
// `stride` words apart.
template <bool kTransposed, class Words>
void pack_words(const Words& from, std::int64_t rows, std::int64_t columns, float* to, std::int64_t stride) {
  constexpr std::int64_t kSide = simd::Square::kSide;
  const std::int64_t whole_rows = std::min(rows, from.whole_rows),
                     whole_columns = std::min(columns, from.whole_columns);
  for (std::int64_t i = 0; i < rows; i += kSide) {
    for (std::int64_t j = 0; j < columns; j += kSide) {
      if (i + kSide <= whole_rows && j + kSide <= whole_columns) {
        simd::Square square;
        for (std::int64_t l = 0; l < kSide; ++l) square.row[l] = from.load(i + l, j);
        if constexpr (kTransposed) simd::transpose(square);
        float* corner = kTransposed ? to + j * stride + i : to + i * stride + j;
        for (std::int64_t l = 0; l < kSide; ++l) simd::store(corner + l * stride, square.row[l]);
        continue;
      }
      for (std::int64_t y = i; y < std::min(i + kSide, rows); ++y) {
        for (std::int64_t x = j; x < std::min(j + kSide, columns); ++x) {
          to[kTransposed ? x * stride + y : y * stride + x] = from.word(y, x);
        }
      }
    }
  }
}

}  // namespace plimsoll
