#pragma once
// Gradients that are zero, for the kernels of every device.

#include "runtime/exec/kernel_table.hpp"

namespace plimsoll {

// True when no gradient comes in through output slot `y`. What goes out is then zero: nothing to add, or all
// overwritten, by zero(view).
template <class Op, class Zero>
bool without_gradient(const KernelArgs& args, int y, const Zero& zero) {
  if (args.grad[y]) return false;
  for (std::size_t i = 0; i < Op::slots.size(); ++i) {
    const int slot = static_cast<int>(i);
    const bool goes_out = Op::slots[i].role == Role::Input || Op::slots[i].role == Role::Param;
    if (goes_out && args.grad[slot] && !args.accumulates(slot)) zero(args.grad[slot]);
  }
  return true;
}

}  // namespace plimsoll
