#pragma once
// Watches what the threads of a grid read and write. Device code is compiled with -fsanitize=thread, whose calls end
// here. Ends the process where two threads touch the same byte, one of them writing, without a barrier of their block
// or warp between them (for two blocks there is none; shuffles order nothing; atomic operations do not hurt each
// other), where an access is not aligned to its size, and where it is beyond an allocation of the device or a variable
// in shared memory, or to memory of the host other than the arguments of the launch and constants of this module.

#include <cstddef>

namespace emulated {

// Memory that the threads of a grid share, or with `of_block` those of a block; until it is forgotten.
void watch(const void* begin, std::size_t bytes, bool of_block = false);
// Memory in which each thread has a place of its own.
void watch_stacks(const void* begin, std::size_t bytes);
void forget(const void* begin);

// A new launch with these arguments, whose accesses are ordered after all others; a new block of it; its threads have
// met at a barrier.
void watch_launch(const void* arguments, std::size_t bytes);
void watch_block();
void watch_barrier();
// Those of a warp have, by __syncwarp().
void watch_warp(unsigned warp);
// The thread of the block that runs now; until the host does.
void watch_thread(unsigned rank);
void watch_host();

// An atomic operation on bytes that no sanitizer sees.
void watch_atomic(const void* at, std::size_t bytes);

}  // namespace emulated
