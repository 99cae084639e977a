#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace plimsoll::cuda {

// to[n] (+)= Σ_rows from [rows, n], in an order that depends on the shape alone. T: float, bf16, f16.
template <class T>
void column_sums(cudaStream_t stream, const T* from, std::int64_t rows, std::int64_t n, float* to, bool accumulate);

}  // namespace plimsoll::cuda
