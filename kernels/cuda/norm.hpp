#pragma once
// Normalisation of rows. T: float, bf16, f16; statistics and gradients of parameters are float.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "runtime/tensor/dtype.hpp"

namespace plimsoll::cuda {

// Units of h elements that are normalised: `heads` in each of `rows` rows of `width` elements, from its beginning.
// Statistics [rows, heads]. The first `first_heads` of a row have another weight than the rest.
struct NormUnits {
  std::int64_t rows = 0, width = 0, h = 0;
  int heads = 1, first_heads = 1;
};

template <class T>
struct NormForward {
  const T *x = nullptr, *residual = nullptr;          // residual may be null
  const T *weight = nullptr, *rest_weight = nullptr;  // of the heads from first_heads on
  const T* bias = nullptr;                            // may be null
  T *sum = nullptr, *y = nullptr;                     // sum = x + residual
  float *mean = nullptr, *rstd = nullptr;             // mean null: not centered
  double eps = 0;
};
template <class T>
void norm(cudaStream_t stream, const NormUnits& units, const NormForward<T>& norm);

template <class T>
struct NormBackward {
  const T *x = nullptr, *dy = nullptr;
  const T *weight = nullptr, *rest_weight = nullptr;
  const float *mean = nullptr, *rstd = nullptr;
  const T* dsum = nullptr;  // added to the gradient; may be null, or dx
  T* dx = nullptr;
  bool accumulate = false;
};
template <class T>
void norm_gradient(cudaStream_t stream, const NormUnits& units, const NormBackward<T>& norm);

// Partial sums over blocks of rows of the gradients of parameters: partials [2][blocks, h]. First those of the weight
// (of the first heads), second those of the bias or, with `rest`, of the weight of the rest of the heads.
enum class SecondSum { None, Bias, Rest };
template <class T>
void norm_partials(cudaStream_t stream, const NormUnits& units, const NormBackward<T>& norm, SecondSum second,
                   std::int64_t blocks, float* partials);
// to[h] (+)= the sum over blocks of partials [blocks, h], in order.
void sum_partials(cudaStream_t stream, const float* partials, std::int64_t blocks, std::int64_t h, float* to,
                  bool accumulate);

// to (+)= from, of `columns` elements in rows of `width`.
template <class T>
void copy_columns(cudaStream_t stream, const T* from, T* to, std::int64_t rows, std::int64_t columns,
                  std::int64_t width, bool accumulate);

}  // namespace plimsoll::cuda
