#include "kernels/cuda/attention_launch.cuh"
#include "kernels/cuda/attention_tile.cuh"

namespace plimsoll::cuda {
namespace {

// Blocks for wide heads have half as many rows, in half as many warps: four tiles then fit in kSharedBytes.
template <int kWidth>
struct GradientBlock {
  static constexpr int kWarps = kWidth <= 128 ? kTileWarps : kTileWarps / 2, kOwn = kWarps * kRowsPerWarp;
  static constexpr unsigned kThreads = kWarps * kWarp;
  static constexpr int kElements = 2 * kTileElements<kWidth, kOwn> + 2 * kTileElements<kWidth>;
};

// Per query: log-sum-exp, and Σ_d out · out_gradient, which is Σ_k p · dp of its row.
struct QueryRow {
  float lse = 0, delta = 0;
};
static_assert(kColumns * sizeof(QueryRow) <= kStaticBytes);

// The rows of kCount queries from `start` on, computed by the kWarps warps of the block and left in `rows`.
template <int kCount, int kWarps, class T>
__device__ void load_query_rows(const AttentionShape& shape, const AttentionTensors<T>& tensors,
                                const AttentionGradients<T>& gradients, std::int64_t sample, int head,
                                std::int64_t start, QueryRow* rows) {
  const T* out = head_of(tensors.out, sample, head, shape.head_dim);
  const T* out_gradient = head_of(gradients.out, sample, head, shape.head_dim);
  const float* lse = tensors.lse + (sample * shape.heads + head) * shape.queries;
  for (int row = static_cast<int>(threadIdx.x / kWarp); row < kCount; row += kWarps) {
    const std::int64_t query = start + row;
    float delta = 0;
    if (query < shape.queries) {
      for (int d = static_cast<int>(threadIdx.x % kWarp); d < shape.head_dim; d += static_cast<int>(kWarp))
        delta += widen(out[query * tensors.out.token + d]) * widen(out_gradient[query * gradients.out.token + d]);
    }
    delta = warp_sum(delta);
    if (threadIdx.x % kWarp == 0) {
      rows[row].delta = delta;
      rows[row].lse = query < shape.queries ? lse[query] : 0.0F;
    }
  }
}

// dS = p · (factor · dP − delta), with p = exp(score − lse).
struct PairGradient {
  float dropped, score;  // factor · p, which the gradient of the values wants; dS
  __device__ PairGradient(const PairRule& rule, std::int64_t query, std::int64_t key, const QueryRow& row, float s,
                          float dp)
      : dropped(0), score(0) {
    if (!rule.attends(query, key)) return;
    const float p = expf(s - row.lse), factor = rule.factor(query, key);
    dropped = factor * p;
    score = p * (factor * dp - row.delta);
  }
};

// dQ of kOwn queries of a head.
template <int kWidth, class T>
__global__ void __launch_bounds__(GradientBlock<kWidth>::kThreads)
    query_gradient_kernel(AttentionShape shape, AttentionTensors<T> tensors, AttentionGradients<T> gradients,
                          const StepInputs* inputs) {
  constexpr int kWarps = GradientBlock<kWidth>::kWarps, kOwn = GradientBlock<kWidth>::kOwn;
  constexpr unsigned kThreads = GradientBlock<kWidth>::kThreads;
  extern __shared__ float4 memory[];
  __shared__ float rows_memory[kColumns * sizeof(QueryRow) / sizeof(float)];
  auto* rows = reinterpret_cast<QueryRow*>(rows_memory);
  float* queries = reinterpret_cast<float*>(memory);
  float *out_gradient = queries + kTileElements<kWidth, kOwn>, *keys = out_gradient + kTileElements<kWidth, kOwn>;
  float* values = keys + kTileElements<kWidth>;
  const int head = static_cast<int>(blockIdx.y), kv = head / (shape.heads / shape.kv_heads);
  const std::int64_t sample = blockIdx.z, start = std::int64_t{blockIdx.x} * kOwn;
  const PairRule rule(shape, inputs, sample, head);
  load_tile<kWidth, kOwn, kThreads>(head_of(tensors.queries, sample, head, shape.head_dim), tensors.queries.token,
                                    start, shape.queries, shape.head_dim, shape.scale, queries);
  load_tile<kWidth, kOwn, kThreads>(head_of(gradients.out, sample, head, shape.head_dim), gradients.out.token, start,
                                    shape.queries, shape.head_dim, 1.0F, out_gradient);
  load_query_rows<kOwn, kWarps>(shape, tensors, gradients, sample, head, start, rows);
  const int row = static_cast<int>(threadIdx.x / kWarp) * kRowsPerWarp;
  const auto lane = static_cast<std::int64_t>(threadIdx.x % kWarp);
  RowSums<kWidth> result;
  const std::int64_t end = start + kOwn < shape.queries ? start + kOwn : shape.queries;
  for (std::int64_t key = 0; key < end; key += kColumns) {
    __syncthreads();
    load_tile<kWidth, kColumns, kThreads>(head_of(tensors.keys, sample, kv, shape.head_dim), tensors.keys.token, key,
                                          end, shape.head_dim, 1.0F, keys);
    load_tile<kWidth, kColumns, kThreads>(head_of(tensors.values, sample, kv, shape.head_dim), tensors.values.token,
                                          key, end, shape.head_dim, 1.0F, values);
    __syncthreads();
    float score[kRowsPerWarp], dp[kRowsPerWarp];
    dot_products<kWidth>(queries, row, keys, score);
    dot_products<kWidth>(out_gradient, row, values, dp);
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r)
      score[r] = PairGradient(rule, start + row + r, key + lane, rows[row + r], score[r], dp[r]).score;
    result.add(score, keys);
  }
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) {
    const std::int64_t query = start + row + r;
    if (query >= shape.queries) continue;
    T* to = head_of(gradients.queries, sample, head, shape.head_dim) + query * gradients.queries.token;
    result.write(r, to, shape.head_dim, shape.scale, gradients.accumulate);
  }
}

// dK and dV of kOwn keys of a key head, over its query heads in order: nobody else adds to them. Lanes have queries.
template <int kWidth, class T>
__global__ void __launch_bounds__(GradientBlock<kWidth>::kThreads)
    key_gradient_kernel(AttentionShape shape, AttentionTensors<T> tensors, AttentionGradients<T> gradients,
                        const StepInputs* inputs) {
  constexpr int kWarps = GradientBlock<kWidth>::kWarps, kOwn = GradientBlock<kWidth>::kOwn;
  constexpr unsigned kThreads = GradientBlock<kWidth>::kThreads;
  extern __shared__ float4 memory[];
  __shared__ float rows_memory[kColumns * sizeof(QueryRow) / sizeof(float)];
  auto* rows = reinterpret_cast<QueryRow*>(rows_memory);
  float* keys = reinterpret_cast<float*>(memory);
  float *values = keys + kTileElements<kWidth, kOwn>, *queries = values + kTileElements<kWidth, kOwn>;
  float* out_gradient = queries + kTileElements<kWidth>;
  const int kv = static_cast<int>(blockIdx.y), group = shape.heads / shape.kv_heads;
  const std::int64_t sample = blockIdx.z, start = std::int64_t{blockIdx.x} * kOwn;
  load_tile<kWidth, kOwn, kThreads>(head_of(tensors.keys, sample, kv, shape.head_dim), tensors.keys.token, start,
                                    shape.queries, shape.head_dim, 1.0F, keys);
  load_tile<kWidth, kOwn, kThreads>(head_of(tensors.values, sample, kv, shape.head_dim), tensors.values.token, start,
                                    shape.queries, shape.head_dim, 1.0F, values);
  const int row = static_cast<int>(threadIdx.x / kWarp) * kRowsPerWarp;
  const auto lane = static_cast<int>(threadIdx.x % kWarp);
  RowSums<kWidth> key_sums, value_sums;
  for (int head = kv * group; head < (kv + 1) * group; ++head) {
    const PairRule rule(shape, inputs, sample, head);
    for (std::int64_t query = start; query < shape.queries; query += kColumns) {  // earlier ones do not see these keys
      __syncthreads();
      load_tile<kWidth, kColumns, kThreads>(head_of(tensors.queries, sample, head, shape.head_dim),
                                            tensors.queries.token, query, shape.queries, shape.head_dim, shape.scale,
                                            queries);
      load_tile<kWidth, kColumns, kThreads>(head_of(gradients.out, sample, head, shape.head_dim), gradients.out.token,
                                            query, shape.queries, shape.head_dim, 1.0F, out_gradient);
      load_query_rows<kColumns, kWarps>(shape, tensors, gradients, sample, head, query, rows);
      __syncthreads();
      float score[kRowsPerWarp], dp[kRowsPerWarp];
      dot_products<kWidth>(keys, row, queries, score);
      dot_products<kWidth>(values, row, out_gradient, dp);
#pragma unroll
      for (int r = 0; r < kRowsPerWarp; ++r) {
        const PairGradient pair(rule, query + lane, start + row + r, rows[lane], score[r], dp[r]);
        score[r] = pair.score;
        dp[r] = pair.dropped;
      }
      key_sums.add(score, queries);
      value_sums.add(dp, out_gradient);
    }
  }
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) {
    const std::int64_t key = start + row + r;
    if (key >= shape.queries) continue;
    T* to_key = head_of(gradients.keys, sample, kv, shape.head_dim) + key * gradients.keys.token;
    T* to_value = head_of(gradients.values, sample, kv, shape.head_dim) + key * gradients.values.token;
    key_sums.write(r, to_key, shape.head_dim, 1.0F, gradients.accumulate);  // the queries in it are scaled
    value_sums.write(r, to_value, shape.head_dim, 1.0F, gradients.accumulate);
  }
}

}  // namespace

template <class T>
void attend_gradient(cudaStream_t stream, const AttentionShape& shape, const AttentionTensors<T>& tensors,
                     const AttentionGradients<T>& gradients, const StepInputs* inputs) {
  with_width(shape.head_dim, [&](auto width) {
    using Block = GradientBlock<width()>;
    launch_tiles<Block::kElements, Block::kThreads>(query_gradient_kernel<width(), T>, stream,
                                                    tile_grid(shape.queries, Block::kOwn, shape.heads, shape),
                                                    "attention_query_gradient", shape, tensors, gradients, inputs);
    launch_tiles<Block::kElements, Block::kThreads>(key_gradient_kernel<width(), T>, stream,
                                                    tile_grid(shape.queries, Block::kOwn, shape.kv_heads, shape),
                                                    "attention_key_gradient", shape, tensors, gradients, inputs);
  });
}

template void attend_gradient(cudaStream_t, const AttentionShape&, const AttentionTensors<float>&,
                              const AttentionGradients<float>&, const StepInputs*);
template void attend_gradient(cudaStream_t, const AttentionShape&, const AttentionTensors<bf16>&,
                              const AttentionGradients<bf16>&, const StepInputs*);
template void attend_gradient(cudaStream_t, const AttentionShape&, const AttentionTensors<f16>&,
                              const AttentionGradients<f16>&, const StepInputs*);

}  // namespace plimsoll::cuda
