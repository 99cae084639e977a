#pragma once
// CPU kernels, one file per op family; each family adds its own kernels for f32 and f64.

#include "runtime/exec/kernel_table.hpp"

namespace plimsoll {

void add_linear_kernels(KernelTable& table);
void add_fp8_kernels(KernelTable& table);        // quantize_fp8, linear_fp8, update_fp8_scales
void add_attention_kernels(KernelTable& table);  // attention, cached_attention
void add_rope_kernels(KernelTable& table);
void add_norm_kernels(KernelTable& table);       // layer_norm … head_norm
void add_pointwise_kernels(KernelTable& table);  // activate, swiglu, add, scale, cast, dropout
void add_embedding_kernels(KernelTable& table);
void add_cross_entropy_kernels(KernelTable& table);
void add_update_kernels(KernelTable& table);  // global_norm, adamw, sgd
void add_copy_kernels(KernelTable& table);    // to_host, from_host

// Everything above.
KernelTable cpu_kernels();

}  // namespace plimsoll
