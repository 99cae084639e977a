// Offload: on this device host memory is a second arena, and the copy stream a thread beside those of compute.

#include <cstring>

#include "kernels/cpu/register.hpp"

namespace plimsoll {
namespace {

void copy(const KernelArgs& args) {
  const View &x = args.value[HostCopy::kX], &y = args.value[HostCopy::kY];
  std::memcpy(y.data, x.data, static_cast<std::size_t>(x.spec.bytes()));
}

}  // namespace

void add_copy_kernels(KernelTable& table) {
  for (const DType type : {DType::f32, DType::f64, DType::bf16, DType::f16, DType::f8e4m3}) {
    table.add<ToHost>(Phase::Forward, type, copy);
    table.add<FromHost>(Phase::Forward, type, copy);
  }
}

}  // namespace plimsoll
