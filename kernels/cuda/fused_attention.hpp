#pragma once
// Attention by cuDNN's fused kernels: bf16 and f16, causal, without dropout and segments.

#include "kernels/cuda/attention.hpp"

namespace plimsoll::cuda {

// What cuDNN may use beside its operands.
struct FusedWorkspace {
  void* data = nullptr;
  std::int64_t bytes = 0;
};

// False, and nothing is done, where cuDNN does not take the shape, is not there, or wants more workspace. The result
// does not depend on the run. T: bf16, f16.
template <class T>
bool try_attend(cudaStream_t stream, const FusedWorkspace& workspace, const AttentionShape& shape,
                const AttentionTensors<T>& tensors);
template <class T>
bool try_attend_gradient(cudaStream_t stream, const FusedWorkspace& workspace, const AttentionShape& shape,
                         const AttentionTensors<T>& tensors, const AttentionGradients<T>& gradients);

}  // namespace plimsoll::cuda
