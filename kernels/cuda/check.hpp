#pragma once
// Return codes of CUDA's libraries as errors: the text names the call, the source line, the device and the library's
// reason. Without fmt, so that .cu files may include it (nvcc takes neither its consteval nor the op declarations).

#include <cuda_runtime_api.h>

#include <cstdint>
#include <source_location>

namespace plimsoll {

using SourcePlace = std::source_location;

// Error(OutOfMemory) for cudaErrorMemoryAllocation, else Error(Device). check_cuda(cudaMemsetAsync(…),
// "cudaMemsetAsync");
void check_cuda(cudaError_t code, const char* call, SourcePlace where = SourcePlace::current());
// After `kernel<<<…>>>(…)`: what its launch said.
void check_launch(const char* kernel, SourcePlace where = SourcePlace::current());
// cublasStatus_t and cudnnStatus_t, as the numbers they are: their headers stay out of files that use neither.
void check_cublas(int status, const char* call, SourcePlace where = SourcePlace::current());
void check_cudnn(int status, const char* call, SourcePlace where = SourcePlace::current());

}  // namespace plimsoll
