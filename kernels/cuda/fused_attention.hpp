#pragma once
// Attention by cuDNN's fused kernels: bf16 and f16, causal, without dropout and segments.

#include "kernels/cuda/attention.hpp"
#include "runtime/ops/attention_device.hpp"

namespace plimsoll::cuda {

// False, and nothing is done, where cuDNN does not take the shape, is not there, or wants more workspace than
// slices.bytes, which `workspace` has. The result does not depend on the run. T: bf16, f16. `slices`: fused_slices(),
// of the shape without segments and dropout; forward is one slice. Slices of backward run one after the other.
template <class T>
bool try_attend(cudaStream_t stream, void* workspace, const FusedSlices& slices, const AttentionShape& shape,
                const AttentionTensors<T>& tensors);
template <class T>
bool try_attend_gradient(cudaStream_t stream, void* workspace, const FusedSlices& slices, const AttentionShape& shape,
                         const AttentionTensors<T>& tensors, const AttentionGradients<T>& gradients);

// CudaModule::attention_refused.
bool attention_refused();

}  // namespace plimsoll::cuda
