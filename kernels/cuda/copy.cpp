// Offload: copies between the arena and pinned host memory, on the copy stream.

#include "kernels/cuda/check.hpp"
#include "kernels/cuda/register.hpp"

namespace plimsoll {
namespace {

void copy(const KernelArgs& args) {
  const View &x = args.value[HostCopy::kX], &y = args.value[HostCopy::kY];
  const auto stream = static_cast<cudaStream_t>(args.stream->native_handle());
  const auto bytes = static_cast<std::size_t>(x.spec.bytes());
  check_cuda(cudaMemcpyAsync(y.data, x.data, bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
}

}  // namespace

void add_cuda_copy_kernels(KernelTable& table) {
  for (const DType type : {DType::f32, DType::bf16, DType::f16, DType::f8e4m3}) {
    table.add<ToHost>(Phase::Forward, type, copy);
    table.add<FromHost>(Phase::Forward, type, copy);
  }
}

}  // namespace plimsoll
