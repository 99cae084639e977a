#pragma once
// What this machine's matrix products reach.

#include "runtime/tensor/dtype.hpp"

namespace plimsoll {

// The fastest rate, in GFLOP/s, that products of transformer shapes reach on this machine with `threads` threads, of
// operands and results of `dtype`, a floating one. Until two rounds over the shapes bring nothing more: about 0.4 s, at
// most 2 s, and 40 MB in fp32; leaves the thread count as it was.
double measure_gemm_gflops(int threads, DType dtype);

}  // namespace plimsoll
