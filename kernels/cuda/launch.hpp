#pragma once
// What the host side of the kernels shares: the stream, and gradients that are zero.

#include <cuda_runtime_api.h>

#include <type_traits>

#include "kernels/cuda/check.hpp"
#include "kernels/no_gradient.hpp"
#include "runtime/exec/kernel_table.hpp"

namespace plimsoll::cuda {

inline cudaStream_t stream_of(const KernelArgs& args) {
  return static_cast<cudaStream_t>(args.stream->native_handle());
}

inline void zero(const KernelArgs& args, const View& x) {
  check_cuda(cudaMemsetAsync(x.data, 0, static_cast<std::size_t>(x.spec.bytes()), stream_of(args)), "cudaMemsetAsync");
}

template <class Op>
bool without_gradient(const KernelArgs& args, int y) {
  return plimsoll::without_gradient<Op>(args, y, [&](const View& out) { zero(args, out); });
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
// The same for products: add(T{}, std::bool_constant<tf32>{}), where floats may be rounded with `tf32`.
template <class F>
void for_each_product_type(bool tf32, F&& add) {
  for_each_type([&]<class T>(T zero) {
    if constexpr (std::is_same_v<T, float>) {
      if (tf32) return add(zero, std::true_type{});
    }
    add(zero, std::false_type{});
  });
}

}  // namespace plimsoll::cuda
