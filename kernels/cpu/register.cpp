#include "kernels/cpu/register.hpp"

namespace plimsoll {

KernelTable cpu_kernels() {
  KernelTable table;
  add_linear_kernels(table);
  add_fp8_kernels(table);
  add_attention_kernels(table);
  add_rope_kernels(table);
  add_norm_kernels(table);
  add_pointwise_kernels(table);
  add_embedding_kernels(table);
  add_cross_entropy_kernels(table);
  add_update_kernels(table);
  add_copy_kernels(table);
  return table;
}

}  // namespace plimsoll
