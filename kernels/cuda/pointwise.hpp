#pragma once
// Elementwise kernels. T: float, bf16, f16. `accumulate`: add to the result instead of overwriting it. Results may lie
// over inputs.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "runtime/ops/activation.hpp"
#include "runtime/ops/step_inputs.hpp"
#include "runtime/tensor/dtype.hpp"

namespace plimsoll::cuda {

// y = act(x)
template <class T>
void activate(cudaStream_t stream, Activation kind, const T* x, T* y, std::int64_t n);
// dx = dy · act'(x)
template <class T>
void activate_gradient(cudaStream_t stream, Activation kind, const T* x, const T* dy, T* dx, std::int64_t n,
                       bool accumulate);
// y [rows, f] of x [rows, 2f] = [gate | up]
template <class T>
void swiglu(cudaStream_t stream, const T* x, T* y, std::int64_t rows, std::int64_t f);
template <class T>
void swiglu_gradient(cudaStream_t stream, const T* x, const T* dy, T* dx, std::int64_t rows, std::int64_t f,
                     bool accumulate);
// y = a + b
template <class T>
void add(cudaStream_t stream, const T* a, const T* b, T* y, std::int64_t n);
// y = factor · x
template <class T>
void scale(cudaStream_t stream, const T* x, T* y, std::int64_t n, float factor, bool accumulate);
// The same of losses.
void scale(cudaStream_t stream, const double* x, double* y, std::int64_t n, double factor);
// to = from in another floating dtype, rounded once to nearest even.
void cast(cudaStream_t stream, DType from_type, const void* from, DType to_type, void* to, std::int64_t n,
          bool accumulate);

// Where the random numbers of a dropout lie (runtime/ops/pointwise.hpp): element e of sample b has index
// (first_sample + b) · whole + skipped + e.
struct DropoutRange {
  std::int64_t n = 0, part = 0;  // elements: of x, and of a sample of it
  std::uint64_t whole = 0, skipped = 0, site = 0;
  std::uint32_t threshold = 0;
  float kept = 1;  // 1 / (1 - p)
};
// y = x · mask · kept. `inputs`: in device memory.
template <class T>
void dropout(cudaStream_t stream, const DropoutRange& range, const StepInputs* inputs, const T* x, T* y,
             bool accumulate);

}  // namespace plimsoll::cuda
