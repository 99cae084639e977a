#include "kernels/cuda/register.hpp"

namespace plimsoll {

KernelTable cuda_kernels(const CudaDeviceOptions& options) {
  KernelTable table;
  add_cuda_linear_kernels(table, options.tf32, options.epilogues);
  add_cuda_fp8_kernels(table, options.epilogues);
  add_cuda_attention_kernels(table);
  add_cuda_rope_kernels(table);
  add_cuda_norm_kernels(table);
  add_cuda_pointwise_kernels(table);
  add_cuda_embedding_kernels(table);
  add_cuda_cross_entropy_kernels(table, options.tf32);
  add_cuda_update_kernels(table);
  add_cuda_copy_kernels(table);
  return table;
}

}  // namespace plimsoll
