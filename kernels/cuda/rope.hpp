#pragma once
// Rotary positions. T: float, bf16, f16.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "runtime/ops/step_inputs.hpp"
#include "runtime/tensor/dtype.hpp"

namespace plimsoll::cuda {

inline constexpr int kMostRopeFrequencies = 512;  // head_dim / 2

struct RopeRange {
  std::int64_t rows = 0, length = 0;  // tokens of all samples, and of one
  int rotated = 0, heads = 0;         // of a row: the first ones rotate, the rest is copied
  int half = 0;                       // head_dim / 2
  float sign = 1;                     // of the angles
  float frequency[kMostRopeFrequencies] = {};
};

// y (+)= rotated x [rows, heads · 2 · half]. y may be x where nothing is accumulated.
template <class T>
void rotate(cudaStream_t stream, const RopeRange& range, const StepInputs* inputs, const T* x, T* y, bool accumulate);

}  // namespace plimsoll::cuda
