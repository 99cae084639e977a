#pragma once
// What gemm() hands to its backends.

#include <cstdint>

#include "kernels/cpu/gemm.hpp"

namespace plimsoll {

// op(A)[m, k] · op(B)[k, n]; flags and leading dimensions as gemm() has them.
template <class T>
struct GemmOperands {
  bool trans_a, trans_b;
  std::int64_t m, n, k;
  const T* a;
  std::int64_t lda;
  const T* b;
  std::int64_t ldb;
};

// The arguments of gemm(), checked, with m, n and k above zero.
template <class T>
struct GemmArguments : GemmOperands<T> {
  T beta;
  T* c;
  std::int64_t ldc;
};

// Throws Internal for negative sizes, and for a leading dimension of A or B that is shorter than a row.
void check_product(bool trans_a, bool trans_b, std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t lda,
                   std::int64_t ldb);

// Whether libxsmm is the backend in use.
bool products_by_libxsmm();

}  // namespace plimsoll
