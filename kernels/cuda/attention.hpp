#pragma once
// Attention by our own tiled kernels, in float arithmetic: for f32, and for what cuDNN does not take. Online softmax
// (Dao et al. 2022), no atomics. T: float, bf16, f16. head_dim: at most kMostHeadDim.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "runtime/ops/step_inputs.hpp"
#include "runtime/tensor/dtype.hpp"

namespace plimsoll::cuda {

inline constexpr int kMostHeadDim = 256;

// Element d of head i of token t of sample b: data[b · batch + t · token + i · head_dim + d].
template <class T>
struct HeadTensor {
  T* data = nullptr;
  std::int64_t batch = 0, token = 0;
};

struct AttentionShape {
  std::int64_t batch = 0, queries = 0;
  int heads = 1, kv_heads = 1, head_dim = 1;
  float scale = 1;
  // Keys that a sample has: as many as queries, or with `cached` those before inputs->position too, of `cached` rows at
  // most; the first query is at this position.
  std::int64_t cached = 0;
  const std::int32_t* segments = nullptr;  // [batch, queries]; may be null
  // Dropout of probabilities (runtime/ops/attention.hpp); threshold 0: none.
  std::uint32_t threshold = 0;
  float kept = 1;
  std::uint64_t site = 0;
  std::int64_t first_head = 0, all_heads = 1;
};

template <class T>
struct AttentionTensors {
  HeadTensor<const T> queries, keys, values;
  HeadTensor<T> out;
  float* lse = nullptr;  // [batch, heads, queries]; may be null in forward
};
template <class T>
void attend(cudaStream_t stream, const AttentionShape& shape, const AttentionTensors<T>& tensors,
            const StepInputs* inputs);

// The same for few queries and `cached` keys, without segments and dropout: each query has a block, whose warps share
// the keys.
template <class T>
void attend_cached(cudaStream_t stream, const AttentionShape& shape, const AttentionTensors<T>& tensors,
                   const StepInputs* inputs);

template <class T>
struct AttentionGradients {
  HeadTensor<const T> out;
  HeadTensor<T> queries, keys, values;
  bool accumulate = false;
};
template <class T>
void attend_gradient(cudaStream_t stream, const AttentionShape& shape, const AttentionTensors<T>& tensors,
                     const AttentionGradients<T>& gradients, const StepInputs* inputs);

// to[b, inputs->position + t, :] = from[b, t, :], rows of `width`; `to` has `positions` rows a sample.
template <class T>
void append_rows(cudaStream_t stream, HeadTensor<const T> from, T* to, std::int64_t batch, std::int64_t count,
                 std::int64_t positions, std::int64_t width, const StepInputs* inputs);

}  // namespace plimsoll::cuda
