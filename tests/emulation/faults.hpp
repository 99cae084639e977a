#pragma once
// Kernels with one fault each, and what they are without it: that the emulated GPU finds it.

#include <cuda_runtime_api.h>

namespace emulated::test {

// Sums 64 numbers; `barrier`: with the barrier that this needs.
void sum_block(cudaStream_t stream, const float* from, float* to, bool barrier);
// The same by lanes of each warp, of which the first sums the numbers of its warp into to[warp].
void sum_warps(cudaStream_t stream, const float* from, float* to, bool barrier);
// to[0] = the block's number, by all blocks or by the first.
void write_from_blocks(cudaStream_t stream, float* to, bool all);
// Threads below `threads`, of 64, meet at a barrier; the others wait for a shuffle of their warp.
void meet(cudaStream_t stream, float* to, unsigned threads);
// to[0 … 4) = from[at … at + 4), in one access.
void copy_wide(cudaStream_t stream, const float* from, unsigned at, float* to);
// Writes element `at` of an array of 8 in shared memory, and reads element `other`.
void touch_shared(cudaStream_t stream, unsigned at, unsigned other, float* to);
// What lane `lane` of the first `live` lanes has.
void read_lane(cudaStream_t stream, unsigned live, int lane, float* to);

}  // namespace emulated::test
