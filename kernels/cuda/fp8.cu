#include <cuda_fp8.h>

#include <algorithm>

#include "kernels/cuda/check.hpp"
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/fp8.hpp"

namespace plimsoll::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr std::int64_t kMostBlocks = 2048;     // each ends in one atomic operation
constexpr unsigned kTile = 64, kTileRows = 8;  // of a turned tensor; threads along its rows
constexpr unsigned kTilePitch = kTile + 4;     // so that neighbouring columns lie in different banks
constexpr int kCodes = kPack<std::uint8_t>;    // that a thread stores at once

__device__ std::uint8_t code_of(float x, bool gradient) {
  return static_cast<std::uint8_t>(__nv_cvt_float_to_fp8(x, __NV_SATFINITE, gradient ? __NV_E5M2 : __NV_E4M3));
}

// Numbers that are not below zero are ordered as their bits are; a maximum does not depend on who comes first.
__device__ void raise(float* most, float x) { atomicMax(reinterpret_cast<int*>(most), __float_as_int(x)); }

__device__ void write_inverses(const Fp8Scaling& scaling, const StepInputs& inputs, float* inverses) {
  for (int role = 0; role < kFp8Roles; ++role)
    inverses[role] = 1.0F / fp8_scale(scaling, static_cast<Fp8Role>(role), inputs);
}

template <class T>
__global__ void quantize_kernel(const T* from, std::int64_t n, Fp8Role role, Fp8Scaling* scaling,
                                const StepInputs* inputs, std::uint8_t* to, float* inverses, bool aligned) {
  __shared__ float shared[kThreads / kWarp];
  const float scale = fp8_scale(*scaling, role, *inputs);
  if (inverses != nullptr && blockIdx.x == 0 && threadIdx.x == 0) write_inverses(*scaling, *inputs, inverses);
  const bool gradient = role == Fp8Role::Gradient;
  const std::int64_t stride = std::int64_t{gridDim.x} * kThreads * kCodes;
  float most = 0;
  for (std::int64_t at = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kCodes; at < n; at += stride) {
    Stored<T> x[kCodes / kPack<T>];
#pragma unroll
    for (int p = 0; p < kCodes / kPack<T>; ++p) x[p] = load_stored(from, at + p * kPack<T>, n, aligned);
    Stored<std::uint8_t> codes;
#pragma unroll
    for (int i = 0; i < kCodes; ++i) {
      const float number = widen(x[i / kPack<T>].at[i % kPack<T>]);
      most = fmaxf(most, fabsf(number));
      codes.at[i] = code_of(number * scale, gradient);
    }
    store(to, at, n, aligned, codes);
  }
  most = block_max(most, shared);
  if (threadIdx.x == 0) raise(&scaling->amax[static_cast<int>(role)], most);
}

// A tile of [rows, columns] is read along its rows and written along its columns. code(x): of an element; 0 where the
// tile goes beyond them.
template <class T, class Code>
__device__ void turn_tile(const T* from, std::int64_t rows, std::int64_t columns, std::uint8_t* to, bool aligned,
                          const Code& code) {
  __shared__ __align__(4) std::uint8_t tile[kTile][kTilePitch];  // [column][row]
  const std::int64_t row = std::int64_t{blockIdx.y} * kTile, column = std::int64_t{blockIdx.x} * kTile;
  // A warp reads kWarp columns of as many rows as a pack has elements: what it then writes at once lies in different
  // banks, or in the same word.
  constexpr unsigned kRows = kPack<T>, kAcross = kWarp / kRows;
  for (unsigned part = threadIdx.y; part < kTile / kRows * (kTile / kWarp); part += kTileRows) {
    const unsigned r = part / (kTile / kWarp) * kRows + threadIdx.x / kAcross;
    const unsigned c = part % (kTile / kWarp) * kWarp + threadIdx.x % kAcross * kRows;
    const Stored<T> x = load_stored(from + (row + r) * columns, column + c, row + r < rows ? columns : 0, aligned);
#pragma unroll
    for (unsigned i = 0; i < kRows; ++i) tile[c + i][r] = code(x.at[i]);
  }
  __syncthreads();
  constexpr unsigned kParts = kTile / kCodes;  // of a column
  static_assert(kTile * kParts == kTileRows * kWarp);
  const unsigned thread = threadIdx.y * kWarp + threadIdx.x, c = thread / kParts, r = thread % kParts * kCodes;
  if (column + c >= columns) return;
  Stored<std::uint8_t> codes;
#pragma unroll
  for (int i = 0; i < kCodes; i += 4)
    *reinterpret_cast<std::uint32_t*>(&codes.at[i]) = *reinterpret_cast<const std::uint32_t*>(&tile[c][r + i]);
  store(to + (column + c) * rows, row + r, rows, aligned, codes);
}

template <class T>
__global__ void quantize_turned_kernel(const T* from, std::int64_t rows, std::int64_t columns, Fp8Role role,
                                       Fp8Scaling* scaling, const StepInputs* inputs, std::uint8_t* to, float* inverses,
                                       bool aligned) {
  __shared__ float shared[kTileRows];
  const float scale = fp8_scale(*scaling, role, *inputs);
  const unsigned thread = threadIdx.y * kWarp + threadIdx.x;
  if (inverses != nullptr && blockIdx.x == 0 && blockIdx.y == 0 && thread == 0)
    write_inverses(*scaling, *inputs, inverses);
  const bool gradient = role == Fp8Role::Gradient;
  float most = 0;
  turn_tile(from, rows, columns, to, aligned, [&](T element) {
    const auto x = static_cast<float>(widen(element));
    most = fmaxf(most, fabsf(x));
    return code_of(x * scale, gradient);
  });
  most = warp_max(most);
  if (threadIdx.x == 0) shared[threadIdx.y] = most;
  __syncthreads();
  if (thread != 0) return;
  for (unsigned w = 1; w < kTileRows; ++w) most = fmaxf(most, shared[w]);
  raise(&scaling->amax[static_cast<int>(role)], most);
}

__global__ void turn_kernel(const std::uint8_t* from, std::int64_t rows, std::int64_t columns, std::uint8_t* to,
                            bool aligned) {
  turn_tile(from, rows, columns, to, aligned, [](std::uint8_t code) { return code; });
}

__global__ void update_kernel(Fp8Scaling* scaling, float* history, std::int64_t tensors) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= tensors) return;
  advance_fp8_scale(scaling[i / kFp8Roles], static_cast<Fp8Role>(i % kFp8Roles), history + i * kFp8History);
}

dim3 tiles_of(std::int64_t rows, std::int64_t columns) { return {blocks_for(columns, kTile), blocks_for(rows, kTile)}; }
// Rows of codes are aligned, and then those of wider elements are.
bool wide_turned(std::int64_t rows, std::int64_t columns, const void* from, const void* to) {
  return wide<std::uint8_t>(rows, {from, to}) && wide<std::uint8_t>(columns, {});
}

}  // namespace

template <class T>
void quantize_fp8(cudaStream_t stream, const T* from, std::int64_t rows, std::int64_t columns, Fp8Role role,
                  Fp8Order order, Fp8Scaling* scaling, const StepInputs* inputs, std::uint8_t* to, float* inverses) {
  if (order == Fp8Order::Turned) {
    quantize_turned_kernel<T><<<tiles_of(rows, columns), dim3(kWarp, kTileRows), 0, stream>>>(
        from, rows, columns, role, scaling, inputs, to, inverses, wide_turned(rows, columns, from, to));
  } else {
    const std::int64_t n = rows * columns;
    const auto blocks =
        static_cast<unsigned>(std::min<std::int64_t>(kMostBlocks, blocks_for(n, std::int64_t{kThreads} * kCodes)));
    quantize_kernel<T>
        <<<blocks, kThreads, 0, stream>>>(from, n, role, scaling, inputs, to, inverses, wide<T>(0, {from, to}));
  }
  check_launch("quantize_fp8");
}

void turn_codes(cudaStream_t stream, const std::uint8_t* from, std::int64_t rows, std::int64_t columns,
                std::uint8_t* to) {
  turn_kernel<<<tiles_of(rows, columns), dim3(kWarp, kTileRows), 0, stream>>>(from, rows, columns, to,
                                                                              wide_turned(rows, columns, from, to));
  check_launch("turn_codes");
}

void update_fp8_scales(cudaStream_t stream, Fp8Scaling* scaling, float* history, std::int64_t linears) {
  const std::int64_t tensors = linears * kFp8Roles;
  update_kernel<<<blocks_for(tensors, kThreads), kThreads, 0, stream>>>(scaling, history, tensors);
  check_launch("update_fp8_scales");
}

#define PLIMSOLL_INSTANTIATE(T)                                                                                  \
  template void quantize_fp8(cudaStream_t, const T*, std::int64_t, std::int64_t, Fp8Role, Fp8Order, Fp8Scaling*, \
                             const StepInputs*, std::uint8_t*, float*);
PLIMSOLL_INSTANTIATE(float)
PLIMSOLL_INSTANTIATE(bf16)
PLIMSOLL_INSTANTIATE(f16)
#undef PLIMSOLL_INSTANTIATE

}  // namespace plimsoll::cuda
