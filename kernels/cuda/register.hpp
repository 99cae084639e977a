#pragma once
// CUDA kernels, one pair of files per op family: x.cpp takes KernelArgs apart, chooses the launch and registers; x.cu
// has the device code and launchers with plain arguments, which a header between the two declares. Kernels run on
// args.stream->native_handle(), allocate nothing after their first call and never wait for the device.

#include "runtime/exec/kernel_table.hpp"

namespace plimsoll {

void add_cuda_copy_kernels(KernelTable& table);  // to_host, from_host

// Everything above.
KernelTable cuda_kernels();

}  // namespace plimsoll
