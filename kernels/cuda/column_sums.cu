#include "kernels/cuda/check.hpp"
#include "kernels/cuda/column_sums.hpp"
#include "kernels/cuda/device_code.cuh"

namespace plimsoll::cuda {
namespace {

constexpr unsigned kColumnPacks = 8, kRowLanes = 64;  // of a block; 128 bytes of a row

template <class T>
__global__ void column_sums_kernel(const T* from, std::int64_t rows, std::int64_t n, float* to, bool aligned,
                                   bool accumulate) {
  __shared__ float shared[kRowLanes][kColumnPacks * kPack<T>];
  const std::int64_t column = (std::int64_t{blockIdx.x} * kColumnPacks + threadIdx.x) * kPack<T>;
  Pack<T> sum{};
  if (column < n) {
#pragma unroll 4
    for (std::int64_t row = threadIdx.y; row < rows; row += kRowLanes) {
      const Pack<T> pack = load(from + row * n, column, n, aligned);
#pragma unroll
      for (int j = 0; j < kPack<T>; ++j) sum.at[j] += pack.at[j];
    }
  }
#pragma unroll
  for (int j = 0; j < kPack<T>; ++j) shared[threadIdx.y][threadIdx.x * kPack<T> + j] = sum.at[j];
  for (unsigned half = kRowLanes / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.y >= half) continue;
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j)
      shared[threadIdx.y][threadIdx.x * kPack<T> + j] += shared[threadIdx.y + half][threadIdx.x * kPack<T> + j];
  }
  if (threadIdx.y != 0 || column >= n) return;
#pragma unroll
  for (int j = 0; j < kPack<T>; ++j) sum.at[j] = shared[0][threadIdx.x * kPack<T> + j];
  store_floats(to + column, n - column, is_aligned(to + column), sum, accumulate);
}

}  // namespace

template <class T>
void column_sums(cudaStream_t stream, const T* from, std::int64_t rows, std::int64_t n, float* to, bool accumulate) {
  if (n == 0) return;
  column_sums_kernel<T><<<blocks_for(n, kColumnPacks * kPack<T>), dim3(kColumnPacks, kRowLanes), 0, stream>>>(
      from, rows, n, to, wide<T>(n, {from}), accumulate);
  check_launch("column_sums");
}

template void column_sums(cudaStream_t, const float*, std::int64_t, std::int64_t, float*, bool);
template void column_sums(cudaStream_t, const bf16*, std::int64_t, std::int64_t, float*, bool);
template void column_sums(cudaStream_t, const f16*, std::int64_t, std::int64_t, float*, bool);

}  // namespace plimsoll::cuda
