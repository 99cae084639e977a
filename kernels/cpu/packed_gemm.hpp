#pragma once
// The matrix products of linear layers, faster than a BLAS call because operands are packed block by block into a small
// workspace that stays in the L2 cache, and because bias, activation and bias gradient ride along. Row-major.
//
// Bits: every element of C is summed in an order that depends on k alone. It does not depend on the number of threads,
// nor on how rows or columns are split over calls. That holds where packed_gemm_is_native(); elsewhere the product is a
// gemm().

#include <cstddef>
#include <cstdint>

#include "runtime/ops/pointwise.hpp"

namespace plimsoll {

// C[m,n] = op(A)[m,k] · op(B)[k,n] + beta · C + bias, op and leading dimensions as in gemm().
template <class T>
struct PackedProduct {
  bool trans_a = false, trans_b = false;
  std::int64_t m = 0, n = 0, k = 0;
  const T* a = nullptr;
  std::int64_t lda = 0;
  const T* b = nullptr;
  std::int64_t ldb = 0;
  T beta = 0;  // 0 (C is written without being read) or 1
  T* c = nullptr;
  std::int64_t ldc = 0;

  const T* bias = nullptr;  // [n], added to every row, or null
  // activated[m,n] = activation(C), rows of ldactivated. It may be C itself, which then holds the activated values
  // only. Null: no activation.
  Activation activation = Activation::None;
  T* activated = nullptr;
  std::int64_t ldactivated = 0;

  // The bias gradient of a weight gradient, from the operand that is being packed anyway; at most one, with the same
  // beta:
  T* row_sum_a = nullptr;     // [m]: sum over k of op(A), which must be transposed (dW[out,in] = dyᵀ · x)
  T* column_sum_b = nullptr;  // [n]: sum over k of op(B), which must not be transposed (dW[in,out] = xᵀ · dy)
};

// Workspace of a product of any shape on `threads` threads. No alignment is needed.
inline constexpr std::int64_t kPackedGemmBytesPerThread = std::int64_t{2} << 20;
constexpr std::int64_t packed_gemm_workspace_bytes(int threads) { return threads * kPackedGemmBytesPerThread; }

// Runs on `threads` OpenMP threads (inside a parallel region on the calling one) and allocates nothing. Throws Internal
// for sizes or options that contradict each other. T is float or double; double is a gemm() followed by loops.
template <class T>
void packed_gemm(const PackedProduct<T>& product, int threads, std::byte* workspace);

extern template void packed_gemm<float>(const PackedProduct<float>&, int, std::byte*);
extern template void packed_gemm<double>(const PackedProduct<double>&, int, std::byte*);

// Whether this build has register tiles for its CPU (AVX-512, or AVX2 with FMA).
bool packed_gemm_is_native();

}  // namespace plimsoll
