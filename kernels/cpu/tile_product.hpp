#pragma once
// The matrix product of small packed tiles. Rows of B and C begin on a vector boundary.

#include <cstdint>
#include <type_traits>

#include "kernels/cpu/simd.hpp"

namespace plimsoll::tile {

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
  simd::Vector<T> sum[kRows][kColumns];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; ++j) sum[i][j] = simd::Vector<T>{};
  }
  for (const T* row = a.data; depth > 0; --depth, row += a.column, b += ldb) {
    simd::Vector<T> right[kColumns];
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; ++j) {
      right[j] = simd::at(b + j * simd::kLanes<T>);
      keep_in_register(right[j]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const simd::Vector<T> left = row[i * a.row] - simd::Vector<T>{};
#pragma GCC unroll 16
      for (int j = 0; j < kColumns; ++j) sum[i][j] += left * right[j];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; ++j) {
      simd::Vector<T>& to = simd::at(c + i * ldc + j * simd::kLanes<T>);
      to = kAdd ? to + sum[i][j] : sum[i][j];
    }
  }
}

// C[m, n] = A · B, or C += A · B with kAdd; B [depth, n], any depth.
template <bool kAdd, class T>
void product(std::int64_t m, std::int64_t n, std::int64_t depth, Left<T> a, const T* b, std::int64_t ldb, T* c,
             std::int64_t ldc) {
  constexpr int kRows = 4, kColumns = simd::kVectorBytes == 64 ? 4 : 2;
  const auto columns = [&](auto count, std::int64_t j) {
    for (std::int64_t i = 0; i < m; i += kRows) {
      const Left<T> rows{a.data + i * a.row, a.row, a.column};
      product_block<kRows, count, kAdd>(depth, rows, b + j, ldb, c + i * ldc + j, ldc);
    }
  };
  std::int64_t j = 0;
  for (; j + kColumns * simd::kLanes<T> <= n; j += kColumns * simd::kLanes<T>)
    columns(std::integral_constant<int, kColumns>{}, j);
  if constexpr (kColumns > 2) {
    for (; j + 2 * simd::kLanes<T> <= n; j += 2 * simd::kLanes<T>) columns(std::integral_constant<int, 2>{}, j);
  }
  for (; j < n; j += simd::kLanes<T>) columns(std::integral_constant<int, 1>{}, j);
}

}  // namespace plimsoll::tile
