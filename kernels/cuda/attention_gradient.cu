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

// By a warp: kCount queries from `start` on, the gradients of their results, and `rows` of them. Until the deltas are
// known, `queries` has the results.
template <int kWidth, int kCount, class T>
__device__ void load_queries(const AttentionShape& shape, const AttentionTensors<T>& tensors,
                             const AttentionGradients<T>& gradients, std::int64_t sample, int head, std::int64_t start,
                             bool aligned, float* queries, float* out_gradient, QueryRow* rows) {
  const auto load_rows = [&](const auto& tensor, float factor, float* tile) {
    load_tile<kWidth, kCount, kWarp>(head_of(tensor, sample, head, shape.head_dim), tensor.token, start, shape.queries,
                                     shape.head_dim, factor, aligned, tile);
  };
  load_rows(tensors.out, 1.0F, queries);
  load_rows(gradients.out, 1.0F, out_gradient);
  __syncwarp();
  const float* lse = tensors.lse + (sample * shape.heads + head) * shape.queries;
  for (int row = 0; row < kCount; ++row) {
    float delta = 0;
    for (int d = static_cast<int>(threadIdx.x % kWarp); d < shape.head_dim; d += static_cast<int>(kWarp))
      delta += queries[row * kStride<kWidth> + d] * out_gradient[row * kStride<kWidth> + d];
    delta = warp_sum(delta);
    if (threadIdx.x % kWarp == 0) {
      rows[row].delta = delta;
      rows[row].lse = start + row < shape.queries ? lse[start + row] : 0.0F;
    }
  }
  __syncwarp();
  load_rows(tensors.queries, shape.scale, queries);
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
                          const StepInputs* inputs, bool aligned) {
  constexpr int kOwn = GradientBlock<kWidth>::kOwn;
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
  const int row = static_cast<int>(threadIdx.x / kWarp) * kRowsPerWarp;
  float* mine = queries + row * kStride<kWidth>;
  load_queries<kWidth, kRowsPerWarp>(shape, tensors, gradients, sample, head, start + row, aligned, mine,
                                     out_gradient + row * kStride<kWidth>, rows + row);
  const auto lane = static_cast<std::int64_t>(threadIdx.x % kWarp);
  RowSums<kWidth> result;
  const std::int64_t end = start + kOwn < shape.queries ? start + kOwn : shape.queries;
  for (std::int64_t key = 0; key < end; key += kColumns) {
    __syncthreads();
    load_tile<kWidth, kColumns, kThreads>(head_of(tensors.keys, sample, kv, shape.head_dim), tensors.keys.token, key,
                                          end, shape.head_dim, 1.0F, aligned, keys);
    load_tile<kWidth, kColumns, kThreads>(head_of(tensors.values, sample, kv, shape.head_dim), tensors.values.token,
                                          key, end, shape.head_dim, 1.0F, aligned, values);
    __syncthreads();
    float score[kRowsPerWarp], dp[kRowsPerWarp];
    dot_products<kWidth>(queries, row, keys, score);
    dot_products<kWidth>(out_gradient, row, values, dp);
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r)
      score[r] = PairGradient(rule, start + row + r, key + lane, rows[row + r], score[r], dp[r]).score;
    result.add(score, keys);
  }
  result.write(mine);
  store_tile<kWidth, kRowsPerWarp>(mine, head_of(gradients.queries, sample, head, shape.head_dim),
                                   gradients.queries.token, start + row, shape.queries, shape.head_dim, shape.scale,
                                   aligned, gradients.accumulate);
}

// dK and dV of kOwn keys of a key head, over its query heads in order: nobody else adds to them. Lanes have queries.
template <int kWidth, class T>
__global__ void __launch_bounds__(GradientBlock<kWidth>::kThreads)
    key_gradient_kernel(AttentionShape shape, AttentionTensors<T> tensors, AttentionGradients<T> gradients,
                        const StepInputs* inputs, bool aligned) {
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
                                    shape.queries, shape.head_dim, 1.0F, aligned, keys);
  load_tile<kWidth, kOwn, kThreads>(head_of(tensors.values, sample, kv, shape.head_dim), tensors.values.token, start,
                                    shape.queries, shape.head_dim, 1.0F, aligned, values);
  const int warp = static_cast<int>(threadIdx.x / kWarp), row = warp * kRowsPerWarp;
  constexpr int kCount = kColumns / kWarps;  // queries that a warp loads
  const auto lane = static_cast<int>(threadIdx.x % kWarp);
  RowSums<kWidth> key_sums, value_sums;
  for (int head = kv * group; head < (kv + 1) * group; ++head) {
    const PairRule rule(shape, inputs, sample, head);
    for (std::int64_t query = start; query < shape.queries; query += kColumns) {  // earlier ones do not see these keys
      __syncthreads();
      load_queries<kWidth, kCount>(shape, tensors, gradients, sample, head, query + warp * kCount, aligned,
                                   queries + warp * kCount * kStride<kWidth>,
                                   out_gradient + warp * kCount * kStride<kWidth>, rows + warp * kCount);
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
  const auto write = [&](const RowSums<kWidth>& sums, float* tile, const HeadTensor<T>& to) {
    float* mine = tile + row * kStride<kWidth>;
    sums.write(mine);
    store_tile<kWidth, kRowsPerWarp>(mine, head_of(to, sample, kv, shape.head_dim), to.token, start + row,
                                     shape.queries, shape.head_dim, 1.0F, aligned, gradients.accumulate);
  };
  write(key_sums, keys, gradients.keys);  // the queries in it are scaled
  write(value_sums, values, gradients.values);
}

}  // namespace

template <class T>
void attend_gradient(cudaStream_t stream, const AttentionShape& shape, const AttentionTensors<T>& tensors,
                     const AttentionGradients<T>& gradients, const StepInputs* inputs) {
  const bool aligned = wide_heads<T>(shape.head_dim, tensors.queries, tensors.keys, tensors.values, tensors.out,
                                     gradients.out, gradients.queries, gradients.keys, gradients.values);
  with_width(shape.head_dim, [&](auto width) {
    using Block = GradientBlock<width()>;
    launch_tiles<Block::kElements, Block::kThreads>(
        query_gradient_kernel<width(), T>, stream, tile_grid(shape.queries, Block::kOwn, shape.heads, shape),
        "attention_query_gradient", shape, tensors, gradients, inputs, aligned);
    launch_tiles<Block::kElements, Block::kThreads>(
        key_gradient_kernel<width(), T>, stream, tile_grid(shape.queries, Block::kOwn, shape.kv_heads, shape),
        "attention_key_gradient", shape, tensors, gradients, inputs, aligned);
  });
}

template void attend_gradient(cudaStream_t, const AttentionShape&, const AttentionTensors<float>&,
                              const AttentionGradients<float>&, const StepInputs*);
template void attend_gradient(cudaStream_t, const AttentionShape&, const AttentionTensors<bf16>&,
                              const AttentionGradients<bf16>&, const StepInputs*);
template void attend_gradient(cudaStream_t, const AttentionShape&, const AttentionTensors<f16>&,
                              const AttentionGradients<f16>&, const StepInputs*);

}  // namespace plimsoll::cuda
