#pragma once
// Matrix products by cuBLASLt. The algorithm for a shape is the library's choice, made once and kept with its
// descriptors by the calling thread, so that later calls allocate nothing.

#include <cuda_runtime_api.h>

#include "kernels/cuda/product_shape.hpp"

namespace plimsoll::cuda {

struct ProductWorkspace {
  void* data = nullptr;
  std::int64_t bytes = 0;
};

// Launches the product. Fails when the library has nothing for it.
void multiply(cudaStream_t stream, const ProductWorkspace& workspace, const Product& product);
// False, and nothing is done, where the library has nothing for this epilogue.
bool try_multiply(cudaStream_t stream, const ProductWorkspace& workspace, const Product& product);

}  // namespace plimsoll::cuda
