#pragma once
// The CUDA backend as the rest of the program sees it: a module (libplimsoll_cuda.so, made from kernels/cuda) that is
// opened when a run first asks for it. A program that was built with it runs on the CPU where neither a driver nor
// CUDA's libraries are installed, and then loads none of them.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "runtime/device/device.hpp"
#include "runtime/exec/kernel_table.hpp"

namespace plimsoll {

struct CudaDeviceInfo {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  std::int64_t memory_bytes = 0;
  std::string pci_bus_id;  // the same for all ranks of a host that use the same device
};

// major * 1000 + minor * 10, as CUDA counts; 0: not there.
struct CudaVersions {
  int built_for = 0, runtime = 0, driver = 0;
  std::int64_t cublas = 0, cudnn = 0;  // as these libraries count (library_version_text())
};

struct CudaDeviceOptions {
  int index = 0;          // of those that are visible
  bool tf32 = false;      // products of f32 may round their operands to TF32
  bool epilogues = true;  // biases, their gradients and GELU may ride in products
  // Communication streams run their tasks on a thread, after what they wait for has reached the device's memory: for
  // transports whose messages go through the host. Otherwise tasks launch work on native_handle().
  bool host_communication = false;
  // The program's, for the threads of these streams.
  void (*follow_stop_flag)(const std::atomic<bool>* flag) = plimsoll::follow_stop_flag;
};

// What the module exports. Everything throws Error.
struct CudaModule {
  std::size_t interface = 0;  // cuda_interface() of its build
  CudaVersions (*versions)() = nullptr;
  // The visible devices, at least one; Error(Device) says why there is none.
  std::vector<CudaDeviceInfo> (*devices)() = nullptr;
  std::unique_ptr<Device> (*make_device)(const CudaDeviceOptions& options) = nullptr;
  KernelTable (*kernels)(const CudaDeviceOptions& options) = nullptr;
  // Whether cuDNN had no plan for attention that this thread wanted of it, which was said.
  bool (*attention_refused)() = nullptr;
};

// Of the sizes of what the module and the program hand each other: a module that has others is refused. Other changes
// it does not see; the module is built and installed with its program.
constexpr std::size_t cuda_interface() {
  std::size_t all = 1;
  for (const std::size_t size :
       {sizeof(CudaModule), sizeof(CudaDeviceOptions), sizeof(KernelArgs), sizeof(Attrs), sizeof(StepInputs),
        sizeof(StepOutputs), sizeof(KernelTable), std::variant_size_v<Attrs>})
    all = all * 1009 + size;
  return all;
}

// Whether this program was built with PLIMSOLL_CUDA=ON.
bool cuda_is_built();
// Opens the module on the first call. Error(Config): this build has none; Error(Device): it, or a library that it
// needs, is not on this machine.
const CudaModule& cuda_module();
// The file that it opens. Error(Device): it is not on this machine.
std::filesystem::path cuda_module_file();

}  // namespace plimsoll
