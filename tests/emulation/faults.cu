#include "tests/emulation/faults.hpp"

#include <cuda_runtime.h>

namespace emulated::test {
namespace {

constexpr unsigned kThreads = 64;

__global__ void sum_kernel(const float* from, float* to, bool barrier) {
  __shared__ float numbers[kThreads];
  numbers[threadIdx.x] = from[threadIdx.x];
  if (barrier) __syncthreads();
  if (threadIdx.x != 0) return;
  float sum = 0;
  for (unsigned i = 0; i < kThreads; ++i) sum += numbers[i];
  to[0] = sum;
}

__global__ void sum_warps_kernel(const float* from, float* to, bool barrier) {
  __shared__ float numbers[kThreads];
  const unsigned lane = threadIdx.x % 32, first = threadIdx.x - lane;
  numbers[threadIdx.x] = from[threadIdx.x];
  if (barrier) __syncwarp();
  float sum = 0;
  for (unsigned i = 0; i < 32; ++i) sum += numbers[first + i];
  if (barrier) __syncwarp();
  numbers[threadIdx.x] = 0;
  if (lane == 0) to[threadIdx.x / 32] = sum;
}

__global__ void write_kernel(float* to, bool all) {
  if (all || blockIdx.x == 0) to[0] = static_cast<float>(blockIdx.x);
}

__global__ void meet_kernel(float* to, unsigned threads) {
  float x = 1;
  if (threadIdx.x < threads)
    __syncthreads();
  else
    x = __shfl_xor_sync(0xFFFFFFFFU, x, 1);
  to[threadIdx.x] = x;
}

__global__ void copy_kernel(const float* from, unsigned at, float* to) {
  *reinterpret_cast<float4*>(to) = *reinterpret_cast<const float4*>(from + at);
}

__global__ void shared_kernel(unsigned at, unsigned other, float* to) {
  __shared__ float numbers[8];
  numbers[at] = 1;
  float* memory = numbers;
  to[0] = memory[other];
}

__global__ void lane_kernel(unsigned live, int lane, float* to) {
  if (threadIdx.x >= live) return;
  to[threadIdx.x] = __shfl_sync(0xFFFFFFFFU, static_cast<float>(threadIdx.x), lane);
}

}  // namespace

void sum_block(cudaStream_t stream, const float* from, float* to, bool barrier) {
  sum_kernel<<<1, kThreads, 0, stream>>>(from, to, barrier);
}
void sum_warps(cudaStream_t stream, const float* from, float* to, bool barrier) {
  sum_warps_kernel<<<1, kThreads, 0, stream>>>(from, to, barrier);
}
void write_from_blocks(cudaStream_t stream, float* to, bool all) { write_kernel<<<2, 1, 0, stream>>>(to, all); }
void meet(cudaStream_t stream, float* to, unsigned threads) { meet_kernel<<<1, kThreads, 0, stream>>>(to, threads); }
void copy_wide(cudaStream_t stream, const float* from, unsigned at, float* to) {
  copy_kernel<<<1, 1, 0, stream>>>(from, at, to);
}
void touch_shared(cudaStream_t stream, unsigned at, unsigned other, float* to) {
  shared_kernel<<<1, 1, 0, stream>>>(at, other, to);
}
void read_lane(cudaStream_t stream, unsigned live, int lane, float* to) {
  lane_kernel<<<1, 32, 0, stream>>>(live, lane, to);
}

}  // namespace emulated::test
