#pragma once
// What the device code of the op families shares: storage types as float, accesses of 16 bytes, sums in a fixed order.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <initializer_list>

#include "runtime/tensor/dtype.hpp"

namespace plimsoll::cuda {

inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kAllLanes = 0xFFFFFFFFU;

// Arithmetic is float; a value is rounded once, to nearest even, where it is stored.
__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(bf16 x) { return __uint_as_float(static_cast<std::uint32_t>(x.bits) << 16); }
__device__ inline float widen(f16 x) { return __half2float(__ushort_as_half(x.bits)); }

template <class T>
__device__ T narrow(float x);
template <>
__device__ inline float narrow<float>(float x) {
  return x;
}
template <>
__device__ inline bf16 narrow<bf16>(float x) {
  bf16 y;
  y.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
  return y;
}
template <>
__device__ inline f16 narrow<f16>(float x) {
  f16 y;
  y.bits = __half_as_ushort(__float2half_rn(x));
  return y;
}

// Elements of an access of 16 bytes.
template <class T>
inline constexpr int kPack = 16 / static_cast<int>(sizeof(T));

// As they are stored, and as floats.
template <class T>
struct alignas(16) Stored {
  T at[kPack<T>];
};
template <class T>
struct Pack {
  float at[kPack<T>];
};

// Whether accesses of 16 bytes may be used: the pointers (null counts) are aligned, and so are rows of `stride`
// elements.
__host__ __device__ inline bool is_aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }
template <class T>
bool wide(std::int64_t stride, std::initializer_list<const void*> pointers) {
  bool yes = stride % kPack<T> == 0;
  for (const void* p : pointers) yes = yes && is_aligned(p);
  return yes;
}

// p[at … at + kPack), 0 from p[n] on. With `aligned`, p is and `at` is a multiple of kPack.
template <class T>
__device__ inline Stored<T> load_stored(const T* p, std::int64_t at, std::int64_t n, bool aligned) {
  Stored<T> stored;
  if (aligned && at + kPack<T> <= n) {
    *reinterpret_cast<uint4*>(&stored) = *reinterpret_cast<const uint4*>(p + at);
    return stored;
  }
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) stored.at[i] = at + i < n ? p[at + i] : T{};
  return stored;
}
// The same as floats.
template <class T>
__device__ inline Pack<T> load(const T* p, std::int64_t at, std::int64_t n, bool aligned) {
  const Stored<T> stored = load_stored(p, at, n, aligned);
  Pack<T> pack;
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) pack.at[i] = widen(stored.at[i]);
  return pack;
}

// p[at … at + kPack) = stored, nothing from p[n] on. p is in device memory: of a plain assignment the compiler may make
// four stores.
template <class T>
__device__ inline void store(T* p, std::int64_t at, std::int64_t n, bool aligned, const Stored<T>& stored) {
  if (aligned && at + kPack<T> <= n) {
    __stwb(reinterpret_cast<uint4*>(p + at), *reinterpret_cast<const uint4*>(&stored));
    return;
  }
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) {
    if (at + i < n) p[at + i] = stored.at[i];
  }
}
template <class T>
__device__ inline void store(T* p, std::int64_t at, std::int64_t n, bool aligned, const Pack<T>& pack) {
  Stored<T> stored;
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) stored.at[i] = narrow<T>(pack.at[i]);
  store(p, at, n, aligned, stored);
}

// The same, or added to what lies there.
template <class T>
__device__ inline void store(T* p, std::int64_t at, std::int64_t n, bool aligned, Pack<T> pack, bool accumulate) {
  if (accumulate) {
    const Pack<T> old = load(p, at, n, aligned);
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) pack.at[i] = __fadd_rn(old.at[i], pack.at[i]);
  }
  store(p, at, n, aligned, pack);
}

// A pack of T of a row of floats, as gradients of parameters are: p[0 … kPack<T>), 0 from p[n] on. With `aligned`, p
// is.
template <class T>
__device__ inline Pack<T> load_floats(const float* p, std::int64_t n, bool aligned) {
  Pack<T> pack;
#pragma unroll
  for (int i = 0; i < kPack<T>; i += kPack<float>) {
    const Pack<float> part = load(p, i, n, aligned);
#pragma unroll
    for (int j = 0; j < kPack<float>; ++j) pack.at[i + j] = part.at[j];
  }
  return pack;
}
template <class T>
__device__ inline void store_floats(float* p, std::int64_t n, bool aligned, const Pack<T>& pack, bool accumulate) {
#pragma unroll
  for (int i = 0; i < kPack<T>; i += kPack<float>) {
    Pack<float> part;
#pragma unroll
    for (int j = 0; j < kPack<float>; ++j) part.at[j] = pack.at[i + j];
    store(p, i, n, aligned, part, accumulate);
  }
}

// The sum over a warp, the same in all lanes.
template <class S>
__device__ inline S warp_sum(S x) {
#pragma unroll
  for (unsigned step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, static_cast<int>(step));
  return x;
}
__device__ inline float warp_max(float x) {
#pragma unroll
  for (unsigned step = kWarp / 2; step > 0; step /= 2)
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, static_cast<int>(step)));
  return x;
}

// The sum over a block of whole warps, the same in all threads. `shared` has a place for each warp.
template <class S>
__device__ inline S block_sum(S x, S* shared) {
  x = warp_sum(x);
  if (blockDim.x == kWarp) return x;
  __syncthreads();  // `shared` may still be read from the last time
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
  __syncthreads();
  const unsigned lane = threadIdx.x % kWarp;
  return warp_sum(lane < blockDim.x / kWarp ? shared[lane] : S(0));
}
__device__ inline float block_max(float x, float* shared) {
  x = warp_max(x);
  if (blockDim.x == kWarp) return x;
  __syncthreads();
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
  __syncthreads();
  const unsigned lane = threadIdx.x % kWarp;
  return warp_max(lane < blockDim.x / kWarp ? shared[lane] : -INFINITY);
}

// Blocks of `per_block` that cover `work`; at least one.
inline unsigned blocks_for(std::int64_t work, std::int64_t per_block) {
  return work <= 0 ? 1U : static_cast<unsigned>((work + per_block - 1) / per_block);
}
// Threads for a row of h elements: a pack each, whole warps, at most 512.
template <class T>
unsigned row_threads(std::int64_t h) {
  const std::int64_t warps = (h + kPack<T> * kWarp - 1) / (kPack<T> * kWarp);
  return static_cast<unsigned>(warps < 1 ? 1 : warps > 16 ? 16 : warps) * kWarp;
}

}  // namespace plimsoll::cuda
