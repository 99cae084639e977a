#include "kernels/cuda/attention_launch.cuh"
#include "kernels/cuda/attention_tile.cuh"

namespace plimsoll::cuda {
namespace {

// A block has kRows queries of a head of a sample.
template <int kWidth, class T>
__global__ void __launch_bounds__(kTileThreads)
    attend_kernel(AttentionShape shape, AttentionTensors<T> tensors, const StepInputs* inputs, bool aligned) {
  extern __shared__ float4 memory[];
  float* queries = reinterpret_cast<float*>(memory);
  float *keys = queries + kTileElements<kWidth>, *values = keys + kTileElements<kWidth>;
  const int head = static_cast<int>(blockIdx.y), kv = head / (shape.heads / shape.kv_heads);
  const std::int64_t sample = blockIdx.z, start = std::int64_t{blockIdx.x} * kRows;
  const PairRule rule(shape, inputs, sample, head);
  const T* key_head = head_of(tensors.keys, sample, kv, shape.head_dim);
  const T* value_head = head_of(tensors.values, sample, kv, shape.head_dim);
  load_tile<kWidth>(head_of(tensors.queries, sample, head, shape.head_dim), tensors.queries.token, start, shape.queries,
                    shape.head_dim, shape.scale, aligned, queries);
  const int row = static_cast<int>(threadIdx.x / kWarp) * kRowsPerWarp;
  const auto lane = static_cast<std::int64_t>(threadIdx.x % kWarp);
  float top[kRowsPerWarp], sum[kRowsPerWarp];  // sum: of this lane's keys
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) top[r] = kMasked, sum[r] = 0;
  RowSums<kWidth> result;
  const std::int64_t past = start + kRows < shape.queries ? start + kRows : shape.queries;
  std::int64_t end = rule.position + past;  // of the keys that the last query of the block sees
  if (shape.cached > 0 && end > shape.cached) end = shape.cached;
  for (std::int64_t key = 0; key < end; key += kColumns) {
    __syncthreads();  // the last tile is used up
    load_tile<kWidth>(key_head, tensors.keys.token, key, end, shape.head_dim, 1.0F, aligned, keys);
    load_tile<kWidth>(value_head, tensors.values.token, key, end, shape.head_dim, 1.0F, aligned, values);
    __syncthreads();
    float score[kRowsPerWarp];
    dot_products<kWidth>(queries, row, keys, score);
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) {
      const std::int64_t query = start + row + r;
      const bool attends = rule.attends(query, key + lane);
      const float old = top[r];
      top[r] = fmaxf(old, warp_max(attends ? score[r] : kMasked));
      const float rescale = expf(old - top[r]), p = attends ? expf(score[r] - top[r]) : 0.0F;
      sum[r] = sum[r] * rescale + p;
      score[r] = attends ? p * rule.factor(query, key + lane) : 0.0F;
      result.scale(r, rescale);
    }
    result.add(score, values);
  }
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) {
    const std::int64_t query = start + row + r;
    const float total = warp_sum(sum[r]);
    if (query < shape.queries && tensors.lse != nullptr && lane == 0)
      tensors.lse[(sample * shape.heads + head) * shape.queries + query] = top[r] + logf(total);
    result.scale(r, 1.0F / total);
  }
  float* mine = queries + row * kStride<kWidth>;
  result.write(mine);
  store_tile<kWidth, kRowsPerWarp>(mine, head_of(tensors.out, sample, head, shape.head_dim), tensors.out.token,
                                   start + row, shape.queries, shape.head_dim, 1.0F, aligned, false);
}

template <class T>
__global__ void append_kernel(HeadTensor<const T> from, T* to, std::int64_t positions, std::int64_t width,
                              const StepInputs* inputs, bool aligned) {
  const std::int64_t token = blockIdx.x, sample = blockIdx.y;
  const T* row = from.data + sample * from.batch + token * from.token;
  T* cache = to + (sample * positions + inputs->position + token) * width;
  if (inputs->position + token >= positions) return;
  for (std::int64_t i = std::int64_t{threadIdx.x} * kPack<T>; i < width; i += std::int64_t{blockDim.x} * kPack<T>)
    store(cache, i, width, aligned, load_stored(row, i, width, aligned));
}

}  // namespace

template <class T>
void attend(cudaStream_t stream, const AttentionShape& shape, const AttentionTensors<T>& tensors,
            const StepInputs* inputs) {
  const bool aligned = wide_heads<T>(shape.head_dim, tensors.queries, tensors.keys, tensors.values, tensors.out);
  with_width(shape.head_dim, [&](auto width) {
    launch_tiles<3 * kTileElements<width()>, kTileThreads>(attend_kernel<width(), T>, stream,
                                                           tile_grid(shape.queries, kRows, shape.heads, shape),
                                                           "attention", shape, tensors, inputs, aligned);
  });
}

template <class T>
void append_rows(cudaStream_t stream, HeadTensor<const T> from, T* to, std::int64_t batch, std::int64_t count,
                 std::int64_t positions, std::int64_t width, const StepInputs* inputs) {
  const dim3 grid(static_cast<unsigned>(count), static_cast<unsigned>(batch));
  append_kernel<T><<<grid, row_threads<T>(width), 0, stream>>>(from, to, positions, width, inputs,
                                                               wide_heads<T>(width, from) && is_aligned(to));
  check_launch("cached_attention caches");
}

#define PLIMSOLL_INSTANTIATE(T)                                                                              \
  template void attend(cudaStream_t, const AttentionShape&, const AttentionTensors<T>&, const StepInputs*);  \
  template void append_rows(cudaStream_t, HeadTensor<const T>, T*, std::int64_t, std::int64_t, std::int64_t, \
                            std::int64_t, const StepInputs*);
PLIMSOLL_INSTANTIATE(float)
PLIMSOLL_INSTANTIATE(bf16)
PLIMSOLL_INSTANTIATE(f16)
#undef PLIMSOLL_INSTANTIATE

}  // namespace plimsoll::cuda
