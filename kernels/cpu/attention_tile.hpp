#pragma once
// The inner loops of attention, on small tiles that lie packed in scratch. Packed rows begin on a vector boundary and
// sizes are multiples of kAttentionPad, unless said otherwise.

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/cpu/cast.hpp"
#include "kernels/cpu/tile_product.hpp"
#include "runtime/ops/attention_scratch.hpp"

namespace plimsoll::tile {

// to[rows, width] = factor · from[rows, columns], with zeros up to pad_attention(rows) rows and `width` columns.
template <class T>
void pack(std::int64_t rows, std::int64_t columns, Wide<T> factor, const T* from, std::int64_t stride, Wide<T>* to,
          std::int64_t width) {
  const Wide<T> zero = 0;
  for (std::int64_t i = 0; i < rows; ++i) {
#pragma omp simd
    for (std::int64_t j = 0; j < columns; ++j) to[i * width + j] = factor * widen(from[i * stride + j]);
    std::fill(to + i * width + columns, to + (i + 1) * width, zero);
  }
  std::fill(to + rows * width, to + pad_attention(rows) * width, zero);
}

// to[columns, rows] = fromᵀ, rows of kAttentionTile; sizes are padded.
template <class T>
void transpose(std::int64_t rows, std::int64_t columns, const T* from, std::int64_t stride, T* to) {
  if constexpr (std::is_same_v<T, float>) {
    constexpr std::int64_t kSide = simd::Square::kSide;
    for (std::int64_t i = 0; i < rows; i += kSide) {
      for (std::int64_t j = 0; j < columns; j += kSide) {
        simd::Square square;
#pragma GCC unroll 16
        for (std::int64_t l = 0; l < kSide; ++l) square.row[l] = simd::load(from + (i + l) * stride + j);
        simd::transpose(square);
#pragma GCC unroll 16
        for (std::int64_t l = 0; l < kSide; ++l) simd::store(to + (j + l) * kAttentionTile + i, square.row[l]);
      }
    }
  } else {
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < columns; ++j) to[j * kAttentionTile + i] = from[i * stride + j];
    }
  }
}

// A tile of scores, stored [keys, queries] with rows of kAttentionTile. On the diagonal, keys after the queries are
// skipped in blocks of kAttentionPad; the part that is skipped is neither written nor read.
struct Tile {
  std::int64_t keys, queries;  // padded
  bool diagonal;
  // Keys that the query columns before `query_end` can see.
  std::int64_t keys_before(std::int64_t query_end) const {
    return diagonal ? std::min(keys, pad_attention(query_end)) : keys;
  }
};

// tile[k, q] = Σ_d rows[k, d] · columns_t[d, q].
template <class T>
void tile_scores(const Tile& s, std::int64_t depth, const T* rows, std::int64_t width, const T* columns_t, T* tile) {
  const std::int64_t step = s.diagonal ? kAttentionPad : s.keys;
  for (std::int64_t k = 0; k < s.keys; k += step) {
    const std::int64_t q = s.diagonal ? k : 0;
    product<false>(step, s.queries - q, depth, Left<T>{rows + k * width, width, 1}, columns_t + q, kAttentionTile,
                   tile + k * kAttentionTile + q, kAttentionTile);
  }
}

// out[q, :] += Σ_k tile[k, q] · rows[k, :].
template <class T>
void tile_sum_keys(const Tile& s, const T* tile, const T* rows, std::int64_t width, T* out) {
  const std::int64_t step = s.diagonal ? kAttentionPad : s.queries;
  for (std::int64_t q = 0; q < s.queries; q += step) {
    product<true>(step, width, s.keys_before(q + step), Left<T>{tile + q, 1, kAttentionTile}, rows, width,
                  out + q * width, width);
  }
}

// out[k, :] += Σ_q tile[k, q] · rows[q, :].
template <class T>
void tile_sum_queries(const Tile& s, const T* tile, const T* rows, std::int64_t width, T* out) {
  const std::int64_t step = s.diagonal ? kAttentionPad : s.keys;
  for (std::int64_t k = 0; k < s.keys; k += step) {
    const std::int64_t q = s.diagonal ? k : 0;
    product<true>(step, width, s.queries - q, Left<T>{tile + k * kAttentionTile + q, kAttentionTile, 1},
                  rows + q * width, width, out + k * width, width);
  }
}

}  // namespace plimsoll::tile
