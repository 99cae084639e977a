#pragma once
// Rows of tables. T: float, bf16, f16; gradients of tables are float. Tokens are those of `rows` = batch · length.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "runtime/ops/step_inputs.hpp"
#include "runtime/tensor/dtype.hpp"

namespace plimsoll::cuda {

// Rows [first, first + rows) of a vocabulary are here.
struct VocabularyPart {
  std::int64_t first = 0, rows = 0;
};

// y[row] = weight[tokens[row]] (+ positions[inputs->position + row % length]); zero for tokens that are not here.
template <class T>
void embed(cudaStream_t stream, const VocabularyPart& part, const std::int32_t* tokens, const T* weight,
           const T* positions, const StepInputs* inputs, T* y, std::int64_t rows, std::int64_t length, std::int64_t h);
// dweight[token] += Σ dy of its rows, in their order.
template <class T>
void embed_gradient(cudaStream_t stream, const VocabularyPart& part, const std::int32_t* tokens, const T* dy,
                    float* dweight, std::int64_t rows, std::int64_t h);

// y[row] = x[row] + table[0], or, with `positions`, + table[inputs->position + first + row % length].
template <class T>
void add_rows(cudaStream_t stream, const T* x, const T* table, bool positions, const StepInputs* inputs,
              std::int64_t first, T* y, std::int64_t rows, std::int64_t length, std::int64_t h);
// dtable[inputs->position + first + t] += Σ_b dy[b, t], b ascending.
template <class T>
void sum_over_batch(cudaStream_t stream, const T* dy, const StepInputs* inputs, std::int64_t first, float* dtable,
                    std::int64_t batch, std::int64_t length, std::int64_t h);

}  // namespace plimsoll::cuda
