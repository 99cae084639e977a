#pragma once
// The products of kernels that are templates over the dtype.

#include "kernels/cpu/half_gemm.hpp"
#include "kernels/cpu/parallel.hpp"

namespace plimsoll {

// C = op(A) · op(B), or C += with `add`; flags and sizes as gemm() has them. C has the dtype of A and B or, of 16-bit
// ones, float: sums are float and rounded once, where they are stored.
template <class T, class C>
void product(bool trans_a, bool trans_b, std::int64_t m, std::int64_t n, std::int64_t k, const T* a, std::int64_t lda,
             const T* b, std::int64_t ldb, bool add, C* c, std::int64_t ldc) {
  if constexpr (kIsHalf<T>) {
    const auto take = [=](const GemmBlock& block, const float* sums, std::int64_t stride) {
      for (std::int64_t i = block.row; i < block.row_end; ++i, sums += stride) {
        const float* from = sums;
        store_range(c + i * ldc + block.column, add, 0, block.column_end - block.column,
                    [=](std::int64_t j) { return from[j]; });
      }
    };
    half_gemm<T>({trans_a, trans_b, m, n, k, a, lda, b, ldb}, SumsReader(take));
  } else {
    gemm<T>(trans_a, trans_b, m, n, k, a, lda, b, ldb, add ? T(1) : T(0), c, ldc);
  }
}

}  // namespace plimsoll
