#pragma once
// The operation graphs in which cuDNN recognises fused attention.

#include <compare>

#include "kernels/cuda/cudnn_graph.hpp"
#include "runtime/tensor/dtype.hpp"

namespace plimsoll::cuda {

// What a plan is made for. Strides in elements, of queries, keys and values (packed: the same) and of the output.
struct FusedShape {
  DType dtype = DType::bf16;
  std::int64_t batch = 1, heads = 1, kv_heads = 1, length = 1, head_dim = 1;
  std::int64_t qkv_batch = 0, qkv_token = 0, out_batch = 0, out_token = 0;
  auto operator<=>(const FusedShape&) const = default;
};

// Tensors of the plan: queries, keys, values, out, log-sum-exp, scale, −∞.
CudnnPlan plan_fused_forward(const FusedShape& shape, cudnnHandle_t handle, std::int64_t workspace_bytes,
                             cudnnBackendDescriptor_t device);
// queries, keys, values, out, gradient of out, log-sum-exp, gradients of queries, keys and values, Σ out · its gradient
// of each row (row_sums_bytes()), scale, −∞, 1.
CudnnPlan plan_fused_backward(const FusedShape& shape, cudnnHandle_t handle, std::int64_t workspace_bytes,
                              cudnnBackendDescriptor_t device);

}  // namespace plimsoll::cuda
