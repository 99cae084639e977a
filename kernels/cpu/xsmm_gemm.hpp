#pragma once
// The libxsmm backend of gemm.hpp: its generated kernels (Heinecke et al. 2016) multiply rows of A, where they lie,
// with a tile of B, four vectors of columns wide, that was packed right before. A library that packs both operands
// spends a tenth of a training step on it.

#include <string>

#include "kernels/cpu/gemm_arguments.hpp"

namespace plimsoll {

// Whether a product is one for this backend: A as it is used (not transposed), more rows than a vector has, and a CPU
// with AVX-512.
bool xsmm_takes(const GemmArguments<float>& arguments);

// C = op(A) · op(B) + beta · C, then `epilogue`, as gemm() defines it, for what xsmm_takes(), with up to `threads`
// threads; the bits do not depend on how many. Each thread keeps 192 KiB for its tile, from its first product on.
void xsmm_gemm(const GemmArguments<float>& arguments, int threads, const GemmEpilogue& epilogue);

// "libxsmm 1.17 clx"; empty where the CPU has no AVX-512.
std::string xsmm_description();

}  // namespace plimsoll
