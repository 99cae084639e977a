#pragma once
// Why `device: cuda` cannot work on a machine, and versions, in words. Without CUDA's headers, so that tests reach it
// in every build.

#include <string>

#include "runtime/core/error.hpp"

namespace plimsoll {

inline constexpr int kCudaInsufficientDriver = 35, kCudaNoDevice = 100;  // cudaError_t

inline std::string cuda_version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }
// Of cuBLAS and cuDNN, as they count: 91501 is 9.15.1.
inline std::string library_version_text(std::int64_t version) {
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

// Of what cudaGetDeviceCount said: its code, the text for it and the number; empty: there are devices. `driver` and
// `built_for`: versions as CUDA counts them, driver 0: none is installed. `visible`: CUDA_VISIBLE_DEVICES, or null.
inline std::string missing_gpu_text(int code, const char* reason, int devices, int driver, int built_for,
                                    const char* visible) {
  if (code == 0 && devices > 0) return "";
  if (driver == 0) return "this machine has no NVIDIA driver (libcuda.so.1)";
  if (code == kCudaInsufficientDriver)
    return fmt::format("the NVIDIA driver is for CUDA {} at most, this build needs {}", cuda_version_text(driver),
                       cuda_version_text(built_for));
  if (code != 0 && code != kCudaNoDevice) return fmt::format("the driver reports: {} (code {})", reason, code);
  if (visible != nullptr) return fmt::format("the driver shows no GPU: CUDA_VISIBLE_DEVICES is '{}'", visible);
  return "the driver finds no GPU";
}

}  // namespace plimsoll
