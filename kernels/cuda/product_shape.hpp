#pragma once
// What a matrix product is, without CUDA's headers.

#include <cstdint>
#include <optional>

#include "runtime/tensor/dtype.hpp"

namespace plimsoll::cuda {

// What the library does beside the product. Bias: adds a vector [n] of the dtype of C to every row. Gelu, GeluBias: its
// tanh form of the result, or of that and a bias. SumA, SumB: leaves the sums over the inner dimension of A [m] or B
// [n], in float.
enum class Epilogue : std::uint8_t { None, Bias, Gelu, GeluBias, SumA, SumB };

// C (+)= A · B, row-major: A [m, k] (with trans_a stored [k, m]), B [k, n] (with trans_b stored [n, k]); ld: elements
// from a stored row to the next. Sums are float.
struct Product {
  bool trans_a = false, trans_b = false;
  std::int64_t m = 0, n = 0, k = 0;
  const void* a = nullptr;
  std::int64_t lda = 0;
  const void* b = nullptr;
  std::int64_t ldb = 0;
  DType in = DType::f32;           // of A and B
  std::optional<DType> in_b = {};  // of B where it is another
  const float* scale_a = nullptr;  // on the device: what elements of fp8 are multiplied with; of A …
  const float* scale_b = nullptr;  // … and of B
  void* c = nullptr;
  std::int64_t ldc = 0;
  DType out = DType::f32;  // of C
  bool accumulate = false;
  Epilogue epilogue = Epilogue::None;
  void* vector = nullptr;  // of the epilogue; Bias and GeluBias read it, Gelu has none
  bool tf32 = false;       // f32 operands may be rounded to TF32
};

// How cuBLASLt, whose matrices are column-major, is told: D = A' · B' with D = Cᵀ, A' = Bᵀ and B' = Aᵀ. A function of
// the product, for tests.
struct ColumnMajorProduct {
  bool trans_a = false, trans_b = false;
  std::int64_t rows_a = 0, columns_a = 0, lda = 0;  // as stored
  std::int64_t rows_b = 0, columns_b = 0, ldb = 0;
  std::int64_t rows = 0, columns = 0, ld = 0;  // of D
};
constexpr ColumnMajorProduct column_major(const Product& p) {
  return {p.trans_b,
          p.trans_a,
          p.trans_b ? p.k : p.n,
          p.trans_b ? p.n : p.k,
          p.ldb,
          p.trans_a ? p.m : p.k,
          p.trans_a ? p.k : p.m,
          p.lda,
          p.n,
          p.m,
          p.ldc};
}

}  // namespace plimsoll::cuda
