#pragma once
// What forward and backward of attention share. A block has rows of its own (queries, or keys in their own gradient),
// kRowsPerWarp for each of its warps, and goes over tiles of kColumns of the others, one for each lane.

#include "kernels/cuda/attention.hpp"
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/random.cuh"

namespace plimsoll::cuda {

inline constexpr int kRowsPerWarp = 4, kTileWarps = 8;
inline constexpr int kRows = kRowsPerWarp * kTileWarps, kColumns = static_cast<int>(kWarp);
inline constexpr unsigned kTileThreads = kTileWarps * kWarp;
static_assert(kRows == kColumns);
// Shared memory of a block on the GPUs that have least (compute capabilities 8.6, 8.9 and 12.0), and how much of it
// kernels declare themselves, at most.
inline constexpr int kSharedBytes = 99 * 1024, kStaticBytes = 512;
inline constexpr float kMasked = -1e30F;  // a score that takes no part: its exponential is 0

// Rows of a tile in shared memory have kWidth elements, of which those from head_dim on are 0, and a pad that puts the
// 16-byte words of eight lanes into different banks.
template <int kWidth>
inline constexpr int kStride = kWidth + 4;
template <int kWidth, int kTileRows = kColumns>
inline constexpr int kTileElements = kTileRows* kStride<kWidth>;

// Row r of a tile = row first + r of a head, times factor; 0 where that is not below `end`. By all threads of a block.
template <int kWidth, int kTileRows = kColumns, unsigned kThreads = kTileThreads, class T>
__device__ void load_tile(const T* head, std::int64_t token, std::int64_t first, std::int64_t end, int head_dim,
                          float factor, float* tile) {
  for (unsigned i = threadIdx.x; i < kTileRows * kWidth; i += kThreads) {
    const int row = static_cast<int>(i) / kWidth, d = static_cast<int>(i) % kWidth;
    const bool inside = first + row < end && d < head_dim;
    tile[row * kStride<kWidth> + d] = inside ? widen(head[(first + row) * token + d]) * factor : 0.0F;
  }
}

// Σ_d a[d] · b[d] of kRowsPerWarp rows of a, from `row` on, and this lane's row of b.
template <int kWidth>
__device__ void dot_products(const float* a, int row, const float* b, float (&sums)[kRowsPerWarp]) {
  const float4* mine = reinterpret_cast<const float4*>(b + threadIdx.x % kWarp * kStride<kWidth>);
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) sums[r] = 0;
#pragma unroll 4
  for (int d = 0; d < kWidth / 4; ++d) {
    const float4 y = mine[d];
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) {
      const float4 x = reinterpret_cast<const float4*>(a + (row + r) * kStride<kWidth>)[d];
      sums[r] += x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
    }
  }
}

// A warp's rows of a product with a tile: this lane has the elements lane, lane + 32, … of each.
template <int kWidth>
struct RowSums {
  static constexpr int kParts = kWidth / static_cast<int>(kWarp);
  float at[kRowsPerWarp][kParts];

  __device__ RowSums() {
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) scale(r, 0.0F);
  }
  __device__ void scale(int r, float factor) {
#pragma unroll
    for (int p = 0; p < kParts; ++p) at[r][p] = factor == 0 ? 0.0F : at[r][p] * factor;
  }
  // += Σ_lane weight[r] of the lane · its row of the tile.
  __device__ void add(const float (&weight)[kRowsPerWarp], const float* tile) {
    const unsigned lane = threadIdx.x % kWarp;
#pragma unroll 4
    for (int column = 0; column < kColumns; ++column) {
      float w[kRowsPerWarp];
#pragma unroll
      for (int r = 0; r < kRowsPerWarp; ++r) w[r] = __shfl_sync(kAllLanes, weight[r], column);
#pragma unroll
      for (int p = 0; p < kParts; ++p) {
        const float x = tile[column * kStride<kWidth> + static_cast<int>(lane) + p * static_cast<int>(kWarp)];
#pragma unroll
        for (int r = 0; r < kRowsPerWarp; ++r) at[r][p] += w[r] * x;
      }
    }
  }
  template <class T>
  __device__ void write(int r, T* row, int head_dim, float factor, bool accumulate) const {
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      const int d = static_cast<int>(threadIdx.x % kWarp) + p * static_cast<int>(kWarp);
      if (d >= head_dim) continue;
      const float x = at[r][p] * factor;
      row[d] = narrow<T>(accumulate ? widen(row[d]) + x : x);
    }
  }
};

// The pairs of a sample that attend, and their dropout factors.
struct PairRule {
  const AttentionShape& shape;
  std::int64_t sample, position;  // position: of query 0 among the keys
  RandomStream random;
  std::uint64_t first;  // of the dropout numbers of this head

  __device__ PairRule(const AttentionShape& s, const StepInputs* inputs, std::int64_t sample_, int head)
      : shape(s), sample(sample_), position(s.cached > 0 ? inputs->position : 0), random(inputs->seed, s.site) {
    const auto t = static_cast<std::uint64_t>(s.queries);
    first = ((inputs->first_sample + static_cast<std::uint64_t>(sample)) * static_cast<std::uint64_t>(s.all_heads) +
             static_cast<std::uint64_t>(s.first_head + head)) *
            t * t;
  }
  __device__ bool attends(std::int64_t query, std::int64_t key) const {
    if (query >= shape.queries || key > position + query) return false;
    if (shape.segments == nullptr) return true;
    const std::int32_t* ids = shape.segments + sample * shape.queries;
    return ids[query] == ids[key];
  }
  // 0 for a dropped pair, else 1 / (1 - p).
  __device__ float factor(std::int64_t query, std::int64_t key) const {
    if (shape.threshold == 0) return 1.0F;
    const std::uint64_t index = first + static_cast<std::uint64_t>(query * shape.queries + key);
    return entry_of(random.block(index >> 2), index) < shape.threshold ? 0.0F : shape.kept;
  }
};

template <class T>
__device__ T* head_of(const HeadTensor<T>& tensor, std::int64_t sample, int head, int head_dim) {
  return tensor.data + sample * tensor.batch + std::int64_t{head} * head_dim;
}

}  // namespace plimsoll::cuda
