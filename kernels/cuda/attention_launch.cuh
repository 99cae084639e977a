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

// Blocks of kRows rows, heads, samples.
inline dim3 tile_grid(std::int64_t rows, int heads, const AttentionShape& shape) {
  return {blocks_for(rows, kRows), static_cast<unsigned>(heads), static_cast<unsigned>(shape.batch)};
}

// `elements` floats of shared memory, more than a kernel gets unless it is asked for.
template <int elements, class... Parameters, class... Arguments>
void launch_tiles(void (*kernel)(Parameters...), cudaStream_t stream, dim3 grid, const char* name,
                  const Arguments&... arguments) {
  constexpr int kBytes = elements * static_cast<int>(sizeof(float));
  check_cuda(
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
      name);
  kernel<<<grid, kTileThreads, kBytes, stream>>>(arguments...);
  check_launch(name);
}

}  // namespace plimsoll::cuda
