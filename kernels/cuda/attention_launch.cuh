#pragma once
// How the tiled attention kernels are launched.

#include <type_traits>

#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/check.hpp"

namespace plimsoll::cuda {

// Calls f with the width that tiles for this head_dim have: the next of 64, 128, 256.
template <class F>
void with_width(int head_dim, F&& f) {
  if (head_dim <= 64)
    f(std::integral_constant<int, 64>{});
  else if (head_dim <= 128)
    f(std::integral_constant<int, 128>{});
  else
    f(std::integral_constant<int, kMostHeadDim>{});
}

// Blocks of so many rows, heads, samples.
inline dim3 tile_grid(std::int64_t rows, int of_block, int heads, const AttentionShape& shape) {
  return {blocks_for(rows, of_block), static_cast<unsigned>(heads), static_cast<unsigned>(shape.batch)};
}

// `elements` floats of shared memory, more than a kernel gets unless it is asked for.
template <int elements, unsigned threads, class... Parameters, class... Arguments>
void launch_tiles(void (*kernel)(Parameters...), cudaStream_t stream, dim3 grid, const char* name,
                  const Arguments&... arguments) {
  constexpr int kBytes = elements * static_cast<int>(sizeof(float));
  static_assert(kBytes + kStaticBytes <= kSharedBytes);
  check_cuda(
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
      name);
  kernel<<<grid, threads, kBytes, stream>>>(arguments...);
  check_launch(name);
}

}  // namespace plimsoll::cuda
