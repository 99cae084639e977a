#pragma once
// CUDA kernels, one pair of files per op family: x.cpp takes KernelArgs apart, chooses the launch and registers; x.cu
// has the device code and launchers with plain arguments, which a header between the two declares. Kernels run on
// args.stream->native_handle(), allocate nothing after their first call and never wait for the device.

#include "kernels/cuda_module.hpp"

namespace plimsoll {

// tf32, epilogues: of CudaDeviceOptions.
void add_cuda_linear_kernels(KernelTable& table, bool tf32, bool epilogues);
void add_cuda_fp8_kernels(KernelTable& table, bool epilogues);
void add_cuda_attention_kernels(KernelTable& table);  // attention, cached_attention
void add_cuda_rope_kernels(KernelTable& table);
void add_cuda_norm_kernels(KernelTable& table);       // layer_norm … head_norm
void add_cuda_pointwise_kernels(KernelTable& table);  // activate, swiglu, add, scale, cast, dropout
void add_cuda_embedding_kernels(KernelTable& table);  // embedding, add_rows
void add_cuda_cross_entropy_kernels(KernelTable& table, bool tf32);
void add_cuda_update_kernels(KernelTable& table);  // square_sums, global_norm, adamw, sgd, clear
void add_cuda_copy_kernels(KernelTable& table);    // to_host, from_host

// Everything above.
KernelTable cuda_kernels(const CudaDeviceOptions& options);

}  // namespace plimsoll
