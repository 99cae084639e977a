#pragma once
// What device code finds when a host compiler compiles it (rewrite.py): the variables and functions that nvcc knows.
// The threads of a block are fibers of one host thread (grid.hpp), which change at barriers.

#include <cuda_runtime.h>
#include <math.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "tests/emulation/accesses.hpp"
#include "tests/emulation/grid.hpp"

#undef __launch_bounds__
#define __launch_bounds__(...)

// Of the thread that runs. Written by grid.cpp only.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace emulated {

template <class Body, class... Arguments>
void launch(const LaunchShape& shape, const void* kernel, Body body, const Arguments&... arguments) {
  // From compute capability 7.0 on, which all have that CUDA 13 knows.
  static_assert((sizeof(Arguments) + ... + 0) <= 32764, "a kernel's arguments");
  const auto thread = [=] { body(arguments...); };
  using Thread = decltype(thread);
  static_assert(std::is_trivially_copyable_v<Thread>);
  start_grid(shape, kernel, &thread, sizeof thread, [](const void* t) { (*static_cast<Thread*>(t))(); });
}

// A variable in shared memory. Each declaration has a type Site of its own.
template <class T, std::size_t alignment, class Site>
T& shared(Site) {
  static const char site = 0;
  return *static_cast<T*>(static_memory(&site, sizeof(T), alignment));
}

template <class T>
T exchanged(unsigned mask, T value, unsigned from) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(std::uint64_t));
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = exchange(WarpCall::Shuffle, mask, bits).of(from);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Keeps what was rounded from being contracted with what follows.
inline float rounded(float x) {
  asm("" : "+x"(x));
  return x;
}

}  // namespace emulated

inline void __syncthreads() { emulated::synchronize(false); }
inline int __syncthreads_or(int predicate) { return emulated::synchronize(predicate != 0) ? 1 : 0; }

template <class T>
T __shfl_sync(unsigned mask, T value, int lane) {
  return emulated::exchanged(mask, value, static_cast<unsigned>(lane) % 32);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return emulated::exchanged(mask, value, emulated::lane() ^ static_cast<unsigned>(bits));
}
// Unlike shuffles, orders the memory that lanes share.
inline void __syncwarp(unsigned mask = 0xFFFFFFFFU) { emulated::exchange(emulated::WarpCall::Barrier, mask, 0); }
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return emulated::exchange(emulated::WarpCall::Ballot, mask, predicate != 0 ? 1 : 0).ones();
}

template <class T>
void __stwb(T* to, T value) {
  *to = value;
}

// Only one thread runs.
__attribute__((no_sanitize("thread"))) inline int atomicMax(int* at, int value) {
  emulated::watch_atomic(at, sizeof *at);
  const int old = *at;
  if (value > old) *at = value;
  return old;
}

inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline float __fadd_rn(float a, float b) { return emulated::rounded(emulated::rounded(a) + emulated::rounded(b)); }
inline float __fmul_rn(float a, float b) { return emulated::rounded(a * b); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }
inline float __double2float_rz(double x) {
  const auto near = static_cast<float>(x);
  return std::fabs(static_cast<double>(near)) > std::fabs(x) ? std::nextafter(near, 0.0F) : near;
}
