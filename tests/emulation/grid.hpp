#pragma once
// Runs a grid: its blocks one after the other, the threads of a block as fibers. A thread runs to its next barrier or
// to its end; in which order threads do is EMULATED_CUDA_ORDER: ascending (the default), descending or shuffled. Shared
// memory is filled with ones, which are NaNs, before each block. What a GPU would not define ends the process: barriers
// that not all threads reach, lanes of a warp in different calls, a shuffle from a lane that takes no part, more shared
// memory than there is.

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>

namespace emulated {

[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

struct LaunchShape {
  dim3 grid, block;
  std::size_t shared = 0;  // bytes of dynamic memory
  cudaStream_t stream = nullptr;
};
// Enqueues a launch, each of whose threads runs body(a copy of the arguments); faults of its shape are what
// cudaGetLastError() says.
void start_grid(const LaunchShape& shape, const void* kernel, const void* arguments, std::size_t bytes,
                void (*body)(const void* arguments));

// The rest is called by the threads of a grid.

// Of the block: a variable of shared memory, known by its site; what the launch asked for.
void* static_memory(const void* site, std::size_t bytes, std::size_t alignment);
void* dynamic_memory();

// Waits for all threads of the block that have not ended; whether any predicate is true.
bool synchronize(bool predicate);

unsigned lane();
enum class WarpCall { Shuffle, Ballot, Barrier };
// What the lanes of a warp gave.
struct WarpValues {
  unsigned lanes = 0;  // that took part
  std::array<std::uint64_t, 32> value{};
  std::uint64_t of(unsigned from) const;
  unsigned ones() const;
};
// Waits for the lanes of the mask that have not ended. Valid until this thread's call after the next.
const WarpValues& exchange(WarpCall call, unsigned mask, std::uint64_t value);

}  // namespace emulated
