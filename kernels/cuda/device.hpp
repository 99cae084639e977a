#pragma once
// CUDA streams, events and memory behind runtime/device/device.hpp.

#include "kernels/cuda_module.hpp"

namespace plimsoll {

std::vector<CudaDeviceInfo> cuda_devices();
CudaVersions cuda_versions();
// Error(Device) where `options.index` is no visible device. Makes the context.
std::unique_ptr<Device> make_cuda_device(const CudaDeviceOptions& options);

}  // namespace plimsoll
