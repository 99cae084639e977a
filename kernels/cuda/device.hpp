#pragma once
// CUDA streams, events and memory behind runtime/device/device.hpp.

#include "kernels/cuda_module.hpp"

namespace plimsoll {

// Why there is no device to use, from what the driver said; empty: there are devices. `driver` and `built_for` are
// versions as CUDA counts them, driver 0: none is installed. A function of its arguments, for tests.
std::string missing_device_text(int code, const char* reason, int devices, int driver, int built_for,
                                const char* visible);

std::vector<CudaDeviceInfo> cuda_devices();
CudaVersions cuda_versions();
// Error(Device) where `options.index` is no visible device. Makes the context.
std::unique_ptr<Device> make_cuda_device(const CudaDeviceOptions& options);

}  // namespace plimsoll
