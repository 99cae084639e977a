#include "kernels/cuda/register.hpp"

namespace plimsoll {

KernelTable cuda_kernels() {
  KernelTable table;
  add_cuda_copy_kernels(table);
  return table;
}

}  // namespace plimsoll
