#pragma once
// The libxsmm backend of gemm.hpp: its generated kernels (Heinecke et al. 2016) multiply rows of A, where they lie,
// with a tile of B, four vectors of columns wide, that was packed right before. A library that packs both operands
// spends a tenth of a training step on it.

#include <string>

#include "kernels/cpu/gemm_arguments.hpp"
#include "runtime/tensor/dtype.hpp"

namespace plimsoll {

// Whether a product is one for this backend: A as it is used (not transposed), more rows than a vector has, and a CPU
// with AVX-512.
bool xsmm_takes(const GemmArguments<float>& arguments);

// C = op(A) · op(B) + beta · C, then `epilogue`, as gemm() defines it, for what xsmm_takes(), with up to `threads`
// threads; the bits do not depend on how many. Each thread keeps 192 KiB for its tile, from its first product on.
void xsmm_gemm(const GemmArguments<float>& arguments, int threads, const GemmEpilogue& epilogue);

// C[rows, columns] = A · tile + beta · C: rows of A, `depth` long, where they lie, with a packed tile of B. Strides are
// those of rows, in elements. Tiles of bf16 hold pairs of rows as words of 32 bits (pack.hpp); `depth` and `lda` are
// even then and `tile_stride` counts words.
template <class T>
struct XsmmTile {
  std::int64_t rows, columns, depth;
  const T* a;
  std::int64_t lda;
  const float* tile;
  std::int64_t tile_stride;
  float* c;
  std::int64_t ldc;
  float beta;
};

// Whether this CPU has instructions that libxsmm multiplies f32 or, as pairs, bf16 with: AVX-512 and its BF16.
bool xsmm_multiplies(DType dtype);

// On the calling thread; `T` is float or bf16. Kernels are generated when a shape comes for the first time.
template <class T>
void xsmm_multiply(const XsmmTile<T>& tile);

extern template void xsmm_multiply<float>(const XsmmTile<float>&);
extern template void xsmm_multiply<bf16>(const XsmmTile<bf16>&);

// "libxsmm 1.17 clx"; empty where the CPU has no AVX-512.
std::string xsmm_description();

}  // namespace plimsoll
