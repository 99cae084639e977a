#include "kernels/cuda/check.hpp"
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/rope.hpp"

namespace plimsoll::cuda {
namespace {

constexpr unsigned kThreads = 128;
constexpr int kHeads = 4;  // that a thread turns by the angles that it has computed

// A thread has kPack frequencies of kHeads heads of a row.
template <class T>
__global__ void rotate_kernel(const __grid_constant__ RopeRange range, const StepInputs* inputs, const T* x, T* y,
                              unsigned packs, bool aligned, bool accumulate) {
  const std::int64_t unit = std::int64_t{blockIdx.x} * kThreads + threadIdx.x, row = unit / packs;
  if (row >= range.rows) return;
  const int first = static_cast<int>(unit % packs) * kPack<T>;
  const auto position = static_cast<float>(inputs->position + row % range.length);
  float cosine[kPack<T>], sine[kPack<T>];
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) {
    const float angle = first + i < range.half ? position * range.frequency[first + i] : 0.0F;
    sincosf(angle, &sine[i], &cosine[i]);
    sine[i] *= range.sign;
  }
  const std::int64_t width = std::int64_t{2} * range.half, at = row * range.heads * width;
  const int begin = static_cast<int>(blockIdx.y) * kHeads;
  for (int head = begin; head < begin + kHeads && head < range.heads; ++head) {
    const T* from = x + at + head * width;
    T* to = y + at + head * width;
    Pack<T> a = load(from, first, range.half, aligned), b = load(from + range.half, first, range.half, aligned);
    if (head < range.rotated) {
#pragma unroll
      for (int i = 0; i < kPack<T>; ++i) {
        const float old = a.at[i];
        a.at[i] = old * cosine[i] - b.at[i] * sine[i];
        b.at[i] = b.at[i] * cosine[i] + old * sine[i];
      }
    } else if (x == y) {
      continue;
    }
    store(to, first, range.half, aligned, a, accumulate);
    store(to + range.half, first, range.half, aligned, b, accumulate);
  }
}

}  // namespace

template <class T>
void rotate(cudaStream_t stream, const RopeRange& range, const StepInputs* inputs, const T* x, T* y, bool accumulate) {
  if (range.rows == 0) return;
  const unsigned packs = blocks_for(range.half, kPack<T>);
  const dim3 grid(blocks_for(range.rows * packs, kThreads), blocks_for(range.heads, kHeads));
  rotate_kernel<T><<<grid, kThreads, 0, stream>>>(range, inputs, x, y, packs, wide<T>(range.half, {x, y}), accumulate);
  check_launch("rope");
}

template void rotate(cudaStream_t, const RopeRange&, const StepInputs*, const float*, float*, bool);
template void rotate(cudaStream_t, const RopeRange&, const StepInputs*, const bf16*, bf16*, bool);
template void rotate(cudaStream_t, const RopeRange&, const StepInputs*, const f16*, f16*, bool);

}  // namespace plimsoll::cuda
