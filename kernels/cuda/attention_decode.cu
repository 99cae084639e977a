#include "kernels/cuda/attention_launch.cuh"
#include "kernels/cuda/attention_tile.cuh"

namespace plimsoll::cuda {
namespace {

constexpr int kKeysAtOnce = 4;  // loads of a warp that are under way together

// A running softmax: of the keys so far the largest score, Σ exp(score − top), and this lane's elements (lane,
// lane + 32, …) of Σ exp(score − top) · value.
template <int kWidth>
struct Running {
  static constexpr int kParts = kWidth / static_cast<int>(kWarp);
  float top = kMasked, sum = 0, at[kParts] = {};

  // Σ over another set of keys, which weighs exp(its top − the new top).
  __device__ void add(float other_top, float other_sum, const float (&other)[kParts]) {
    const float higher = fmaxf(top, other_top);
    const float mine = expf(top - higher), theirs = expf(other_top - higher);
    top = higher;
    sum = sum * mine + other_sum * theirs;
#pragma unroll
    for (int p = 0; p < kParts; ++p) at[p] = at[p] * mine + other[p] * theirs;
  }
};

// This lane's elements of a row of a head; 0 beyond head_dim.
template <int kParts, class T>
__device__ void load_row(const T* row, int head_dim, float (&to)[kParts]) {
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    const int d = static_cast<int>(threadIdx.x % kWarp) + p * static_cast<int>(kWarp);
    to[p] = d < head_dim ? widen(row[d]) : 0.0F;
  }
}

// A block has one query of a head: its warps share the keys, and the first one adds up what they found, in order.
template <int kWidth, class T>
__global__ void __launch_bounds__(kTileThreads)
    decode_kernel(AttentionShape shape, AttentionTensors<T> tensors, const StepInputs* inputs) {
  constexpr int kParts = Running<kWidth>::kParts;
  __shared__ float tops[kTileWarps], sums[kTileWarps], results[kTileWarps][kWidth];
  const std::int64_t query = blockIdx.x, sample = blockIdx.z;
  const int head = static_cast<int>(blockIdx.y), kv = head / (shape.heads / shape.kv_heads);
  const int warp = static_cast<int>(threadIdx.x / kWarp), lane = static_cast<int>(threadIdx.x % kWarp);
  std::int64_t end = inputs->position + query + 1;
  if (end > shape.cached) end = shape.cached;
  const T* keys = head_of(tensors.keys, sample, kv, shape.head_dim);
  const T* values = head_of(tensors.values, sample, kv, shape.head_dim);
  float q[kParts];
  load_row(head_of(tensors.queries, sample, head, shape.head_dim) + query * tensors.queries.token, shape.head_dim, q);
  Running<kWidth> running;
  for (std::int64_t first = warp * kKeysAtOnce; first < end; first += kTileWarps * kKeysAtOnce) {
    float k[kKeysAtOnce][kParts], v[kKeysAtOnce][kParts];
#pragma unroll
    for (int i = 0; i < kKeysAtOnce; ++i) {
      const std::int64_t key = first + i < end ? first + i : end - 1;
      load_row(keys + key * tensors.keys.token, shape.head_dim, k[i]);
      load_row(values + key * tensors.values.token, shape.head_dim, v[i]);
    }
#pragma unroll
    for (int i = 0; i < kKeysAtOnce; ++i) {
      float score = 0;
#pragma unroll
      for (int p = 0; p < kParts; ++p) score += q[p] * k[i][p];
      score = warp_sum(score) * shape.scale;
      if (first + i < end) running.add(score, 1.0F, v[i]);
    }
  }
  if (lane == 0) tops[warp] = running.top, sums[warp] = running.sum;
#pragma unroll
  for (int p = 0; p < kParts; ++p) results[warp][lane + p * static_cast<int>(kWarp)] = running.at[p];
  __syncthreads();
  if (warp != 0) return;
  for (int w = 1; w < kTileWarps; ++w) {
    float other[kParts];
#pragma unroll
    for (int p = 0; p < kParts; ++p) other[p] = results[w][lane + p * static_cast<int>(kWarp)];
    running.add(tops[w], sums[w], other);
  }
  T* out = head_of(tensors.out, sample, head, shape.head_dim) + query * tensors.out.token;
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    const int d = lane + p * static_cast<int>(kWarp);
    if (d < shape.head_dim) out[d] = narrow<T>(running.at[p] / running.sum);
  }
}

}  // namespace

template <class T>
void attend_cached(cudaStream_t stream, const AttentionShape& shape, const AttentionTensors<T>& tensors,
                   const StepInputs* inputs) {
  with_width(shape.head_dim, [&](auto width) {
    const dim3 grid(static_cast<unsigned>(shape.queries), static_cast<unsigned>(shape.heads),
                    static_cast<unsigned>(shape.batch));
    decode_kernel<width(), T><<<grid, kTileThreads, 0, stream>>>(shape, tensors, inputs);
    check_launch("cached_attention");
  });
}

template void attend_cached(cudaStream_t, const AttentionShape&, const AttentionTensors<float>&, const StepInputs*);
template void attend_cached(cudaStream_t, const AttentionShape&, const AttentionTensors<bf16>&, const StepInputs*);
template void attend_cached(cudaStream_t, const AttentionShape&, const AttentionTensors<f16>&, const StepInputs*);

}  // namespace plimsoll::cuda
