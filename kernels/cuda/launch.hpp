#pragma once
// What the host side of the kernels shares: the stream, and gradients that are zero.

#include <cuda_runtime_api.h>

#include <type_traits>

#include "kernels/cuda/check.hpp"
#include "runtime/exec/kernel_table.hpp"

namespace plimsoll::cuda {

inline cudaStream_t stream_of(const KernelArgs& args) {
  return static_cast<cudaStream_t>(args.stream->native_handle());
}

inline void zero(const KernelArgs& args, const View& x) {
  check_cuda(cudaMemsetAsync(x.data, 0, static_cast<std::size_t>(x.spec.bytes()), stream_of(args)), "cudaMemsetAsync");
}

// True when no gradient comes in through output slot `y`. What goes out is then zero: nothing to add, or all
// overwritten.
template <class Op>
bool without_gradient(const KernelArgs& args, int y) {
  if (args.grad[y]) return false;
  for (std::size_t i = 0; i < Op::slots.size(); ++i) {
    const int slot = static_cast<int>(i);
    const bool goes_out = Op::slots[i].role == Role::Input || Op::slots[i].role == Role::Param;
    if (goes_out && args.grad[slot] && !args.accumulates(slot)) zero(args, args.grad[slot]);
  }
  return true;
}

// Slots that an op may not have: -1.
template <class T>
T* value_or_null(const KernelArgs& args, int slot) {
  return slot < 0 ? nullptr : args.v<T>(slot);
}
template <class T>
T* grad_or_null(const KernelArgs& args, int slot) {
  return slot < 0 ? nullptr : args.g<T>(slot);
}

// Calls add(T{}) for every storage type that the kernels take.
template <class F>
void for_each_type(F&& add) {
  add(float{});
  add(bf16{});
  add(f16{});
}

}  // namespace plimsoll::cuda
