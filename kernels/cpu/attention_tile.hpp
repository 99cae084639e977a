#pragma once
// The inner loops of attention: products of small tiles that lie packed in scratch, and the exponential. Written on the
// compiler's vector types, so that they are vector code at every optimisation level. Packed rows begin on a vector
// boundary and sizes are multiples of kAttentionPad, unless said otherwise.

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "kernels/cpu/simd.hpp"
#include "runtime/ops/attention_scratch.hpp"

namespace plimsoll::tile {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

template <class T>
using Integer = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes), may_alias));
};
template <class T>
using Vector = typename VectorOf<T>::type;
template <class T>
inline constexpr std::int64_t kLanes = kVectorBytes / std::int64_t{sizeof(T)};

template <class T>
const Vector<T>& at(const T* p) {
  return *reinterpret_cast<const Vector<T>*>(p);
}
template <class T>
Vector<T>& at(T* p) {
  return *reinterpret_cast<Vector<T>*>(p);
}

// Element (i, k) of the left operand of a product is data[i · row + k · column].
template <class T>
struct Left {
  const T* data;
  std::int64_t row, column;
};

// GCC would rather load a row of B again for each row of A, and loads are what limits the loop then.
template <class V>
void keep_in_register([[maybe_unused]] V& v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#endif
}

// The unrolling keeps the sums in registers.
template <int kRows, int kColumns, bool kAdd, class T>
[[gnu::noinline]] void product_block(std::int64_t depth, Left<T> a, const T* __restrict b, std::int64_t ldb,
                                     T* __restrict c, std::int64_t ldc) {
  Vector<T> sum[kRows][kColumns];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; ++j) sum[i][j] = Vector<T>{};
  }
  for (const T* row = a.data; depth > 0; --depth, row += a.column, b += ldb) {
    Vector<T> right[kColumns];
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; ++j) {
      right[j] = at(b + j * kLanes<T>);
      keep_in_register(right[j]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const Vector<T> left = row[i * a.row] - Vector<T>{};
#pragma GCC unroll 16
      for (int j = 0; j < kColumns; ++j) sum[i][j] += left * right[j];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; ++j) {
      Vector<T>& to = at(c + i * ldc + j * kLanes<T>);
      to = kAdd ? to + sum[i][j] : sum[i][j];
    }
  }
}

// C[m, n] = A · B, or C += A · B with kAdd; B [depth, n], any depth.
template <bool kAdd, class T>
void product(std::int64_t m, std::int64_t n, std::int64_t depth, Left<T> a, const T* b, std::int64_t ldb, T* c,
             std::int64_t ldc) {
  constexpr int kRows = 4, kColumns = kVectorBytes == 64 ? 4 : 2;
  const auto columns = [&](auto count, std::int64_t j) {
    for (std::int64_t i = 0; i < m; i += kRows) {
      const Left<T> rows{a.data + i * a.row, a.row, a.column};
      product_block<kRows, count, kAdd>(depth, rows, b + j, ldb, c + i * ldc + j, ldc);
    }
  };
  std::int64_t j = 0;
  for (; j + kColumns * kLanes<T> <= n; j += kColumns * kLanes<T>) columns(std::integral_constant<int, kColumns>{}, j);
  if constexpr (kColumns > 2) {
    for (; j + 2 * kLanes<T> <= n; j += 2 * kLanes<T>) columns(std::integral_constant<int, 2>{}, j);
  }
  for (; j < n; j += kLanes<T>) columns(std::integral_constant<int, 1>{}, j);
}

// e^x for x <= 0, within 2 ulp; exactly 0 below -87 in float. Cody-Waite reduction to |r| <= ln2/2 and the Taylor
// polynomial of degree 7.
inline Vector<float> exp_nonpositive(Vector<float> x) {
  using Bits = Vector<std::uint32_t>;  // wraps where x is far below -87
  const Vector<float> zero{};
  const Vector<float> shifted =
      x * 1.44269504088896341F + 12582912.0F;  // rounds to an integer in the low mantissa bits
  const Vector<float> n = shifted - 12582912.0F;
  const Vector<float> r = (x - n * 0.693359375F) - n * -2.12194440e-4F;
  Vector<float> p = zero + 1.0F / 5040;
  p = p * r + 1.0F / 720;
  p = p * r + 1.0F / 120;
  p = p * r + 1.0F / 24;
  p = p * r + 1.0F / 6;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const Bits scale = ((Bits)shifted << 23) + 0x3F800000U;
  const Vector<float> y = p * (Vector<float>)scale;
  return x < -87.0F ? zero : y;
}
inline Vector<double> exp_nonpositive(Vector<double> x) {
  for (std::int64_t i = 0; i < kLanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

// to[rows, width] = factor · from[rows, columns], with zeros up to pad_attention(rows) rows and `width` columns.
template <class T>
void pack(std::int64_t rows, std::int64_t columns, T factor, const T* from, std::int64_t stride, T* to,
          std::int64_t width) {
  for (std::int64_t i = 0; i < rows; ++i) {
#pragma omp simd
    for (std::int64_t j = 0; j < columns; ++j) to[i * width + j] = factor * from[i * stride + j];
    std::fill(to + i * width + columns, to + (i + 1) * width, T(0));
  }
  std::fill(to + rows * width, to + pad_attention(rows) * width, T(0));
}

// to[columns, rows] = fromᵀ, rows of kAttentionTile; sizes are padded.
template <class T>
void transpose(std::int64_t rows, std::int64_t columns, const T* from, std::int64_t stride, T* to) {
  if constexpr (std::is_same_v<T, float>) {
    constexpr std::int64_t kSide = simd::kLanes;
    for (std::int64_t i = 0; i < rows; i += kSide) {
      for (std::int64_t j = 0; j < columns; j += kSide) {
        std::array<simd::Vector, kSide> square;
#pragma GCC unroll 16
        for (std::int64_t l = 0; l < kSide; ++l) square[l] = simd::load(from + (i + l) * stride + j);
        simd::transpose(square);
#pragma GCC unroll 16
        for (std::int64_t l = 0; l < kSide; ++l) simd::store(to + (j + l) * kAttentionTile + i, square[l]);
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
