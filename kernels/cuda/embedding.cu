#include "kernels/cuda/check.hpp"
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/embedding.hpp"

namespace plimsoll::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kWarps = kThreads / kWarp;

// The row of a table that a token has; −1: another rank has it.
__device__ std::int64_t row_here(const VocabularyPart& part, std::int32_t token) {
  const std::int64_t row = token - part.first;
  return row >= 0 && row < part.rows ? row : -1;
}

template <class T>
__global__ void embed_kernel(VocabularyPart part, const std::int32_t* tokens, const T* weight, const T* positions,
                             const StepInputs* inputs, T* y, std::int64_t length, std::int64_t h, bool aligned) {
  const std::int64_t row = blockIdx.x, token = row_here(part, tokens[row]);
  const T* position = positions == nullptr ? nullptr : positions + (inputs->position + row % length) * h;
  for (std::int64_t i = std::int64_t{threadIdx.x} * kPack<T>; i < h; i += std::int64_t{blockDim.x} * kPack<T>) {
    Pack<T> pack{};
    if (token >= 0) pack = load(weight + token * h, i, h, aligned);
    if (position != nullptr && token >= 0) {
      const Pack<T> more = load(position, i, h, aligned);
#pragma unroll
      for (int j = 0; j < kPack<T>; ++j) pack.at[j] += more.at[j];
    }
    store(y + row * h, i, h, aligned, pack);
  }
}

// Tokens of a thread, and of a block.
constexpr int kTokens = kPack<std::int32_t>;
constexpr int kBlockTokens = kTokens * static_cast<int>(kThreads);

// Bit i: tokens[at + i] is `token`, and at + i < end.
__device__ unsigned hits_of(const std::int32_t* tokens, std::int64_t at, std::int64_t end, std::int32_t token,
                            bool aligned) {
  const Stored<std::int32_t> mine = load_stored(tokens, at, end, aligned);
  unsigned hits = 0;
#pragma unroll
  for (int i = 0; i < kTokens; ++i) hits |= at + i < end && mine.at[i] == token ? 1U << i : 0U;
  return hits;
}

// The places of `token` among kBlockTokens tokens from `begin` on, in order; returns how many.
__device__ unsigned list_places(const std::int32_t* tokens, std::int64_t begin, std::int64_t end, std::int32_t token,
                                bool aligned, std::int64_t* list, unsigned* counts) {
  const std::int64_t at = begin + std::int64_t{threadIdx.x} * kTokens;
  const unsigned hits = hits_of(tokens, at, end, token, aligned);
  const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  unsigned before = 0, of_warp = 0;
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    const unsigned lanes = __ballot_sync(kAllLanes, (hits >> i & 1U) != 0);
    before += static_cast<unsigned>(__popc(lanes & ((1U << lane) - 1U)));
    of_warp += static_cast<unsigned>(__popc(lanes));
  }
  if (lane == 0) counts[warp] = of_warp;
  __syncthreads();
  unsigned all = 0;
  for (unsigned w = 0; w < kWarps; ++w) {
    if (w < warp) before += counts[w];
    all += counts[w];
  }
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    if ((hits >> i & 1U) != 0) list[before++] = at + i;
  }
  __syncthreads();
  return all;
}

// Block (r, tile): if row r is the first with its token, it sums the rows with this token, in order, for a tile of
// columns; otherwise there is nothing to do. So every row of the table has one writer.
template <class T>
__global__ void embed_gradient_kernel(VocabularyPart part, const std::int32_t* tokens, const T* dy, float* dweight,
                                      std::int64_t rows, std::int64_t h, bool aligned) {
  __shared__ std::int64_t list[kBlockTokens];
  __shared__ unsigned counts[kWarps];
  const std::int64_t first = blockIdx.x;
  const std::int32_t token = tokens[first];
  const std::int64_t row = row_here(part, token);
  if (row < 0) return;
  const bool aligned_tokens = is_aligned(tokens);
  for (std::int64_t begin = 0; begin < first; begin += kBlockTokens) {
    const std::int64_t at = begin + std::int64_t{threadIdx.x} * kTokens;
    if (__syncthreads_or(static_cast<int>(hits_of(tokens, at, first, token, aligned_tokens))) != 0) return;
  }
  const std::int64_t column = (std::int64_t{blockIdx.y} * kThreads + threadIdx.x) * kPack<T>;
  Pack<T> sum{};
  // Before `first` there is none.
  for (std::int64_t begin = first / kTokens * kTokens; begin < rows; begin += kBlockTokens) {
    const unsigned places = list_places(tokens, begin, rows, token, aligned_tokens, list, counts);
    if (column < h) {
#pragma unroll 4
      for (unsigned p = 0; p < places; ++p) {
        const Pack<T> d = load(dy + list[p] * h, column, h, aligned);
#pragma unroll
        for (int j = 0; j < kPack<T>; ++j) sum.at[j] += d.at[j];
      }
    }
    __syncthreads();  // before the list is overwritten
  }
  float* to = dweight + row * h + column;
  if (column < h) store_floats(to, h - column, is_aligned(to), sum, true);
}

template <class T>
__global__ void add_rows_kernel(const T* x, const T* table, bool positions, const StepInputs* inputs,
                                std::int64_t first, T* y, std::int64_t length, std::int64_t h, bool aligned) {
  const std::int64_t row = blockIdx.x;
  const T* addend = positions ? table + (inputs->position + first + row % length) * h : table;
  for (std::int64_t i = std::int64_t{threadIdx.x} * kPack<T>; i < h; i += std::int64_t{blockDim.x} * kPack<T>) {
    Pack<T> pack = load(x + row * h, i, h, aligned);
    const Pack<T> more = load(addend, i, h, aligned);
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) pack.at[j] += more.at[j];
    store(y + row * h, i, h, aligned, pack);
  }
}

template <class T>
__global__ void sum_over_batch_kernel(const T* dy, const StepInputs* inputs, std::int64_t first, float* dtable,
                                      std::int64_t batch, std::int64_t length, std::int64_t h, bool aligned) {
  const std::int64_t t = blockIdx.x;
  float* to = dtable + (inputs->position + first + t) * h;
  for (std::int64_t i = std::int64_t{threadIdx.x} * kPack<T>; i < h; i += std::int64_t{blockDim.x} * kPack<T>) {
    Pack<T> sum{};
    for (std::int64_t b = 0; b < batch; ++b) {
      const Pack<T> d = load(dy + (b * length + t) * h, i, h, aligned);
#pragma unroll
      for (int j = 0; j < kPack<T>; ++j) sum.at[j] += d.at[j];
    }
    store_floats(to + i, h - i, is_aligned(to + i), sum, true);
  }
}

}  // namespace

template <class T>
void embed(cudaStream_t stream, const VocabularyPart& part, const std::int32_t* tokens, const T* weight,
           const T* positions, const StepInputs* inputs, T* y, std::int64_t rows, std::int64_t length, std::int64_t h) {
  if (rows == 0) return;
  embed_kernel<T><<<static_cast<unsigned>(rows), row_threads<T>(h), 0, stream>>>(
      part, tokens, weight, positions, inputs, y, length, h, wide<T>(h, {weight, positions, y}));
  check_launch("embedding");
}

template <class T>
void embed_gradient(cudaStream_t stream, const VocabularyPart& part, const std::int32_t* tokens, const T* dy,
                    float* dweight, std::int64_t rows, std::int64_t h) {
  if (rows == 0) return;
  const dim3 grid(static_cast<unsigned>(rows), blocks_for(h, kThreads * kPack<T>));
  embed_gradient_kernel<T><<<grid, kThreads, 0, stream>>>(part, tokens, dy, dweight, rows, h, wide<T>(h, {dy}));
  check_launch("embedding_gradient");
}

template <class T>
void add_rows(cudaStream_t stream, const T* x, const T* table, bool positions, const StepInputs* inputs,
              std::int64_t first, T* y, std::int64_t rows, std::int64_t length, std::int64_t h) {
  if (rows == 0) return;
  add_rows_kernel<T><<<static_cast<unsigned>(rows), row_threads<T>(h), 0, stream>>>(
      x, table, positions, inputs, first, y, length, h, wide<T>(h, {x, table, y}));
  check_launch("add_rows");
}

template <class T>
void sum_over_batch(cudaStream_t stream, const T* dy, const StepInputs* inputs, std::int64_t first, float* dtable,
                    std::int64_t batch, std::int64_t length, std::int64_t h) {
  if (length == 0) return;
  sum_over_batch_kernel<T><<<static_cast<unsigned>(length), row_threads<T>(h), 0, stream>>>(
      dy, inputs, first, dtable, batch, length, h, wide<T>(h, {dy}));
  check_launch("sum_over_batch");
}

#define PLIMSOLL_INSTANTIATE(T)                                                                                        \
  template void embed(cudaStream_t, const VocabularyPart&, const std::int32_t*, const T*, const T*, const StepInputs*, \
                      T*, std::int64_t, std::int64_t, std::int64_t);                                                   \
  template void embed_gradient(cudaStream_t, const VocabularyPart&, const std::int32_t*, const T*, float*,             \
                               std::int64_t, std::int64_t);                                                            \
  template void add_rows(cudaStream_t, const T*, const T*, bool, const StepInputs*, std::int64_t, T*, std::int64_t,    \
                         std::int64_t, std::int64_t);                                                                  \
  template void sum_over_batch(cudaStream_t, const T*, const StepInputs*, std::int64_t, float*, std::int64_t,          \
                               std::int64_t, std::int64_t);
PLIMSOLL_INSTANTIATE(float)
PLIMSOLL_INSTANTIATE(bf16)
PLIMSOLL_INSTANTIATE(f16)
#undef PLIMSOLL_INSTANTIATE

}  // namespace plimsoll::cuda
