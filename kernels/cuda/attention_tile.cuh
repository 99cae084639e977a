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
inline constexpr int kMostLoads = 2;      // of a thread for a tile that are under way together
inline constexpr float kMasked = -1e30F;  // a score that takes no part: its exponential is 0

// Rows of a tile in shared memory have kWidth elements, of which those from head_dim on are 0, and a pad that puts the
// 16-byte words of eight lanes into different banks.
template <int kWidth>
inline constexpr int kStride = kWidth + 4;
template <int kWidth, int kTileRows = kColumns>
inline constexpr int kTileElements = kTileRows* kStride<kWidth>;

// Rows of a head on their way to a tile: what a thread has of them, 0 from row `rows` and element head_dim on. Pointers
// and rows are aligned. By kThreads threads: of a block, or of a warp.
template <int kWidth, int kTileRows, unsigned kThreads, class T>
struct TilePacks {
  static constexpr unsigned kPacks = kWidth / kPack<T>, kLoads = kTileRows * kPacks / kThreads;
  static_assert(kLoads * kThreads == kTileRows * kPacks);
  Stored<T> at[kLoads] = {};

  __device__ TilePacks(const T* from, std::int64_t token, int rows, int head_dim) {
#pragma unroll
    for (unsigned i = 0; i < kLoads; ++i) {
      const unsigned place = threadIdx.x % kThreads + i * kThreads;
      const auto row = static_cast<int>(place / kPacks), d = static_cast<int>(place % kPacks) * kPack<T>;
      if (row < rows && d < head_dim) at[i] = load_stored(from + row * token + d, 0, kPack<T>, true);
    }
  }
  __device__ void put(float factor, float* tile) const {
#pragma unroll
    for (unsigned i = 0; i < kLoads; ++i) {
      const unsigned place = threadIdx.x % kThreads + i * kThreads;
      auto* to = reinterpret_cast<float4*>(tile + place / kPacks * kStride<kWidth> + place % kPacks * kPack<T>);
      const T* x = at[i].at;
#pragma unroll
      for (int k = 0; k < kPack<T>; k += 4)
        to[k / 4] = {widen(x[k]) * factor, widen(x[k + 1]) * factor, widen(x[k + 2]) * factor,
                     widen(x[k + 3]) * factor};
    }
  }
};

// Row r of a tile = row first + r of a head, times factor; 0 where that is not below `end`. By kThreads threads, as
// above.
template <int kWidth, int kTileRows = kColumns, unsigned kThreads = kTileThreads, class T>
__device__ void load_tile(const T* head, std::int64_t token, std::int64_t first, std::int64_t end, int head_dim,
                          float factor, bool aligned, float* tile) {
  const T* from = head + first * token;
  const auto rows = static_cast<int>(first + kTileRows < end ? kTileRows : end - first);  // or less than one
  if (!aligned) {
#pragma unroll 2
    for (unsigned i = threadIdx.x % kThreads; i < kTileRows * kWidth; i += kThreads) {
      const int row = static_cast<int>(i) / kWidth, d = static_cast<int>(i) % kWidth;
      tile[row * kStride<kWidth> + d] = row < rows && d < head_dim ? widen(from[row * token + d]) * factor : 0.0F;
    }
    return;
  }
  constexpr int kRowsAtOnce = kMostLoads * static_cast<int>(kThreads) * kPack<T> / kWidth;
  constexpr int kPart = kRowsAtOnce < kTileRows ? kRowsAtOnce : kTileRows;
  static_assert(kTileRows % kPart == 0);
#pragma unroll 1
  for (int part = 0; part < kTileRows; part += kPart) {
    const TilePacks<kWidth, kPart, kThreads, T> packs(from + part * token, token, rows - part, head_dim);
    packs.put(factor, tile + part * kStride<kWidth>);
  }
}

// A warp's rows of a tile, times factor, to the rows from `first` on of a head, those below `end`, or added to them.
template <int kWidth, int kTileRows, class T>
__device__ void store_tile(const float* tile, T* head, std::int64_t token, std::int64_t first, std::int64_t end,
                           int head_dim, float factor, bool aligned, bool accumulate) {
  constexpr int kPacks = kWidth / kPack<T>;
  for (int i = static_cast<int>(threadIdx.x % kWarp); i < kTileRows * kPacks; i += static_cast<int>(kWarp)) {
    const int row = i / kPacks, d = i % kPacks * kPack<T>;
    if (first + row >= end || d >= head_dim) continue;
    Pack<T> pack = load_floats<T>(tile + row * kStride<kWidth> + d, kPack<T>, true), old{};
    T* to = head + (first + row) * token;
    if (accumulate) old = load(to, d, head_dim, aligned);
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j)
      pack.at[j] = accumulate ? __fmaf_rn(pack.at[j], factor, old.at[j]) : pack.at[j] * factor;
    store(to, d, head_dim, aligned, pack);
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
  // Into rows of a tile, which are used up and which no other warp reads.
  __device__ void write(float* rows) const {
    __syncwarp();
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) {
#pragma unroll
      for (int p = 0; p < kParts; ++p)
        rows[r * kStride<kWidth> + static_cast<int>(threadIdx.x % kWarp) + p * static_cast<int>(kWarp)] = at[r][p];
    }
    __syncwarp();
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

// Whether rows of these heads may be read and written 16 bytes at a time.
template <class T, class... Tensors>
bool wide_heads(std::int64_t head_dim, const Tensors&... tensors) {
  return head_dim % kPack<T> == 0 && (... && (tensors.batch % kPack<T> == 0 && wide<T>(tensors.token, {tensors.data})));
}

template <class T>
__device__ T* head_of(const HeadTensor<T>& tensor, std::int64_t sample, int head, int head_dim) {
  return tensor.data + sample * tensor.batch + std::int64_t{head} * head_dim;
}

}  // namespace plimsoll::cuda
