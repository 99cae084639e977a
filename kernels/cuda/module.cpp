// The one symbol of the module.

#include "kernels/cuda/device.hpp"
#include "kernels/cuda/fused_attention.hpp"
#include "kernels/cuda/register.hpp"

extern "C" __attribute__((visibility("default"))) const plimsoll::CudaModule* plimsoll_cuda_module() {
  static const plimsoll::CudaModule module{plimsoll::cuda_interface(), plimsoll::cuda_versions,
                                           plimsoll::cuda_devices,     plimsoll::make_cuda_device,
                                           plimsoll::cuda_kernels,     plimsoll::cuda::attention_refused};
  return &module;
}
