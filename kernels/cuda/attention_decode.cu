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

// Keys and values of a warp lie in tiles of its own, so that it loads packs and its lanes have elements lane, lane +
// 32, ….
template <int kWidth>
inline constexpr int kWarpElements = 2 * kTileElements<kWidth, kKeysAtOnce>;

// This lane's elements of a row of a tile.
template <int kParts>
__device__ void take_row(const float* row, float (&to)[kParts]) {
#pragma unroll
  for (int p = 0; p < kParts; ++p) to[p] = row[static_cast<int>(threadIdx.x % kWarp) + p * static_cast<int>(kWarp)];
}

// A block has one query of a head: its warps share the keys, and the first one adds up what they found, in order.
template <int kWidth, class T>
__global__ void __launch_bounds__(kTileThreads)
    decode_kernel(AttentionShape shape, AttentionTensors<T> tensors, const StepInputs* inputs, bool aligned) {
  constexpr int kParts = Running<kWidth>::kParts;
  extern __shared__ float4 memory[];
  __shared__ float tops[kTileWarps], sums[kTileWarps];
  const std::int64_t query = blockIdx.x, sample = blockIdx.z;
  const int head = static_cast<int>(blockIdx.y), kv = head / (shape.heads / shape.kv_heads);
  const int warp = static_cast<int>(threadIdx.x / kWarp), lane = static_cast<int>(threadIdx.x % kWarp);
  std::int64_t end = inputs->position + query + 1;
  if (end > shape.cached) end = shape.cached;
  float* first_tile = reinterpret_cast<float*>(memory);
  float *keys = first_tile + warp * kWarpElements<kWidth>, *values = keys + kTileElements<kWidth, kKeysAtOnce>;
  const T* key_head = head_of(tensors.keys, sample, kv, shape.head_dim);
  const T* value_head = head_of(tensors.values, sample, kv, shape.head_dim);
  float q[kParts];
  load_tile<kWidth, kKeysAtOnce, kWarp>(head_of(tensors.queries, sample, head, shape.head_dim), tensors.queries.token,
                                        query, query + 1, shape.head_dim, 1.0F, aligned, keys);
  __syncwarp();
  take_row(keys, q);
  Running<kWidth> running;
  for (std::int64_t first = warp * kKeysAtOnce; first < end; first += kTileWarps * kKeysAtOnce) {
    __syncwarp();  // the last ones are used up
    if (aligned) {
      using Packs = TilePacks<kWidth, kKeysAtOnce, kWarp, T>;
      const auto rows = static_cast<int>(first + kKeysAtOnce < end ? kKeysAtOnce : end - first);
      const Packs k(key_head + first * tensors.keys.token, tensors.keys.token, rows, shape.head_dim);
      const Packs v(value_head + first * tensors.values.token, tensors.values.token, rows, shape.head_dim);
      k.put(1.0F, keys);
      v.put(1.0F, values);
    } else {
      load_tile<kWidth, kKeysAtOnce, kWarp>(key_head, tensors.keys.token, first, end, shape.head_dim, 1.0F, false,
                                            keys);
      load_tile<kWidth, kKeysAtOnce, kWarp>(value_head, tensors.values.token, first, end, shape.head_dim, 1.0F, false,
                                            values);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kKeysAtOnce; ++i) {
      float k[kParts], v[kParts], score = 0;
      take_row(keys + i * kStride<kWidth>, k);
      take_row(values + i * kStride<kWidth>, v);
#pragma unroll
      for (int p = 0; p < kParts; ++p) score += q[p] * k[p];
      score = warp_sum(score) * shape.scale;
      if (first + i < end) running.add(score, 1.0F, v);
    }
  }
  if (lane == 0) tops[warp] = running.top, sums[warp] = running.sum;
  __syncwarp();
#pragma unroll
  for (int p = 0; p < kParts; ++p) keys[lane + p * static_cast<int>(kWarp)] = running.at[p];
  __syncthreads();
  if (warp != 0) return;
  for (int w = 1; w < kTileWarps; ++w) {
    float other[kParts];
    take_row(first_tile + w * kWarpElements<kWidth>, other);
    running.add(tops[w], sums[w], other);
  }
#pragma unroll
  for (int p = 0; p < kParts; ++p) keys[lane + p * static_cast<int>(kWarp)] = running.at[p] / running.sum;
  __syncwarp();
  store_tile<kWidth, 1>(keys, head_of(tensors.out, sample, head, shape.head_dim), tensors.out.token, query, query + 1,
                        shape.head_dim, 1.0F, aligned, false);
}

}  // namespace

template <class T>
void attend_cached(cudaStream_t stream, const AttentionShape& shape, const AttentionTensors<T>& tensors,
                   const StepInputs* inputs) {
  const bool aligned = wide_heads<T>(shape.head_dim, tensors.queries, tensors.keys, tensors.values, tensors.out);
  with_width(shape.head_dim, [&](auto width) {
    const dim3 grid(static_cast<unsigned>(shape.queries), static_cast<unsigned>(shape.heads),
                    static_cast<unsigned>(shape.batch));
    launch_tiles<kTileWarps * kWarpElements<width()>, kTileThreads>(
        decode_kernel<width(), T>, stream, grid, "cached_attention", shape, tensors, inputs, aligned);
  });
}

template void attend_cached(cudaStream_t, const AttentionShape&, const AttentionTensors<float>&, const StepInputs*);
template void attend_cached(cudaStream_t, const AttentionShape&, const AttentionTensors<bf16>&, const StepInputs*);
template void attend_cached(cudaStream_t, const AttentionShape&, const AttentionTensors<f16>&, const StepInputs*);

}  // namespace plimsoll::cuda
