#pragma once
#include "runtime/exec/kernel_table.hpp"

namespace plimsoll {

// The collective ops (runtime/ops/collective.hpp) over the group that the executor passes.
void add_collective_kernels(KernelTable& table);

}  // namespace plimsoll
