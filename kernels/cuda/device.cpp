#include "kernels/cuda/device.hpp"

#include <cublasLt.h>
#ifdef PLIMSOLL_HAVE_CUDNN
#include <cudnn.h>
#endif

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <optional>

#include "kernels/cuda/check.hpp"
#include "kernels/cuda/stream.hpp"
#include "kernels/cuda_errors.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/text.hpp"

namespace plimsoll {
namespace {

// cudaMalloc promises 256 bytes; a block of its own is aligned to its page.
constexpr std::int64_t kDevicePage = std::int64_t{2} << 20;

std::int64_t in_pages(std::int64_t bytes) {
  return (std::max<std::int64_t>(bytes, 1) + kDevicePage - 1) / kDevicePage * kDevicePage;
}

// Free memory of a device before this process uses it, by NVML, which comes with the driver; nullopt: it is not there.
std::optional<std::int64_t> driver_free_bytes(const std::string& bus_id) {
  struct Memory {  // nvmlMemory_t
    unsigned long long total, free, used;
  };
  void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return std::nullopt;
  const auto init = reinterpret_cast<int (*)()>(dlsym(library, "nvmlInit_v2"));
  const auto find = reinterpret_cast<int (*)(const char*, void**)>(dlsym(library, "nvmlDeviceGetHandleByPciBusId_v2"));
  const auto read = reinterpret_cast<int (*)(void*, Memory*)>(dlsym(library, "nvmlDeviceGetMemoryInfo"));
  const auto shut_down = reinterpret_cast<int (*)()>(dlsym(library, "nvmlShutdown"));
  std::optional<std::int64_t> free;
  if (init != nullptr && find != nullptr && read != nullptr && shut_down != nullptr && init() == 0) {
    void* device = nullptr;
    Memory memory{};
    if (find(bus_id.c_str(), &device) == 0 && read(device, &memory) == 0) free = static_cast<std::int64_t>(memory.free);
    shut_down();
  }
  dlclose(library);
  return free;
}

static_assert(kCudaInsufficientDriver == cudaErrorInsufficientDriver && kCudaNoDevice == cudaErrorNoDevice);

void require_devices() {
  int count = 0;  // an error leaves it as it is
  const cudaError_t code = cudaGetDeviceCount(&count);
  const CudaVersions versions = cuda_versions();
  const std::string missing =
      missing_gpu_text(code, cudaGetErrorString(code), code == cudaSuccess ? count : 0, versions.driver,
                       versions.built_for, std::getenv("CUDA_VISIBLE_DEVICES"));
  require(missing.empty(), ErrorKind::Device, "device: cuda: {}", missing);
}

CudaDeviceInfo device_info(int index) {
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  std::array<char, 32> bus{};
  check_cuda(cudaDeviceGetPCIBusId(bus.data(), static_cast<int>(bus.size()), index), "cudaDeviceGetPCIBusId");
  return {properties.name, properties.major, properties.minor, static_cast<std::int64_t>(properties.totalGlobalMem),
          bus.data()};
}

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(const CudaDeviceOptions& options) : options_(options), info_(device_info(options.index)) {
    const std::optional<std::int64_t> before = driver_free_bytes(info_.pci_bus_id);
    use_device(options.index);
    check_cuda(cudaFree(nullptr), "cudaFree");  // makes the context
    const std::optional<std::int64_t> after = driver_free_bytes(info_.pci_bus_id);
    const DeviceMemory now = CudaDevice::memory();
    free_at_start_ = now.free_bytes;
    context_bytes_ = before && after ? std::max<std::int64_t>(0, *before - *after) : now.total_bytes - now.free_bytes;
  }

  std::string_view kind() const override { return "cuda"; }
  std::string description() const override {
    return fmt::format("GPU {} ({}), {}, compute capability {}.{}", options_.index, info_.pci_bus_id, info_.name,
                       info_.major, info_.minor);
  }
  DeviceMemory memory() const override {
    use_device(options_.index);
    std::size_t free = 0, total = 0;
    check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return {static_cast<std::int64_t>(total), static_cast<std::int64_t>(free)};
  }
  std::optional<std::int64_t> outside_bytes() const override {
    return context_bytes_ + std::max<std::int64_t>(0, free_at_start_ - memory().free_bytes - allocated_);
  }
  std::unique_ptr<Stream> make_stream(StreamKind kind) override {
    if (communicates(kind) && options_.host_communication) return make_hosted_stream(options_);
    return make_native_stream(options_.index, kind);
  }
  std::unique_ptr<Event> make_event() override { return make_cuda_event(options_.index); }
  std::unique_ptr<Timer> make_timer() override { return make_cuda_timer(options_.index); }

  void* allocate(std::int64_t bytes) override;
  void release(void* memory, std::int64_t bytes) noexcept override {
    if (cudaSetDevice(options_.index) == cudaSuccess && cudaFree(memory) == cudaSuccess) allocated_ -= in_pages(bytes);
  }
  void* allocate_host(std::int64_t bytes) override;
  void release_host(void* memory, std::int64_t) noexcept override { cudaFreeHost(memory); }

  void copy_to_device(void* device, const void* host, std::int64_t bytes) override { copy(device, host, bytes); }
  void copy_to_host(void* host, const void* device, std::int64_t bytes) override { copy(host, device, bytes); }
  void fill(void* device, std::uint8_t byte, std::int64_t bytes) override {
    use_device(options_.index);
    check_cuda(cudaMemsetAsync(device, byte, static_cast<std::size_t>(bytes), cudaStreamPerThread), "cudaMemsetAsync");
    check_cuda(cudaStreamSynchronize(cudaStreamPerThread), "cudaStreamSynchronize");
  }

 private:
  // Several threads may copy at once. A plain cudaMemcpy from pageable memory returns before the bytes have arrived,
  // and no stream of ours would wait for it.
  void copy(void* to, const void* from, std::int64_t bytes) const {
    use_device(options_.index);
    check_cuda(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault, cudaStreamPerThread),
               "cudaMemcpyAsync");
    check_cuda(cudaStreamSynchronize(cudaStreamPerThread), "cudaStreamSynchronize");
  }

  CudaDeviceOptions options_;
  CudaDeviceInfo info_;
  std::int64_t context_bytes_ =
      0;  // with what other processes have, where the driver's library does not tell them apart
  std::int64_t free_at_start_ = 0, allocated_ = 0;
};

void* CudaDevice::allocate(std::int64_t bytes) {
  require(bytes >= 0, ErrorKind::Internal, "an allocation of {} bytes", bytes);
  const DeviceMemory before = memory();
  void* memory = nullptr;
  const cudaError_t code = cudaMalloc(&memory, static_cast<std::size_t>(in_pages(bytes)));
  require(code != cudaErrorMemoryAllocation, ErrorKind::OutOfMemory,
          "{}: cannot allocate {} ({} bytes): {} of {} are free", description(), format_bytes(bytes),
          format_count(bytes), format_bytes(before.free_bytes), format_bytes(before.total_bytes));
  check_cuda(code, "cudaMalloc");
  require(reinterpret_cast<std::uintptr_t>(memory) % 4096 == 0, ErrorKind::Internal, "cudaMalloc gave {}", memory);
  allocated_ += in_pages(bytes);
  return memory;
}

void* CudaDevice::allocate_host(std::int64_t bytes) {
  require(bytes >= 0, ErrorKind::Internal, "an allocation of {} bytes", bytes);
  use_device(options_.index);
  void* memory = nullptr;
  const auto size = static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1));
  const cudaError_t code = cudaHostAlloc(&memory, size, cudaHostAllocPortable);
  require(code != cudaErrorMemoryAllocation, ErrorKind::OutOfMemory,
          "cannot allocate {} ({} bytes) of pinned host memory", format_bytes(bytes), format_count(bytes));
  check_cuda(code, "cudaHostAlloc");
  return memory;
}

}  // namespace

std::vector<CudaDeviceInfo> cuda_devices() {
  require_devices();
  int count = 0;
  check_cuda(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  std::vector<CudaDeviceInfo> all;
  for (int index = 0; index < count; ++index) all.push_back(device_info(index));
  return all;
}

CudaVersions cuda_versions() {
  CudaVersions versions;
  versions.built_for = CUDART_VERSION;
  // Without a driver the first is an error on some systems and 0 on others.
  if (cudaDriverGetVersion(&versions.driver) != cudaSuccess) versions.driver = 0;
  check_cuda(cudaRuntimeGetVersion(&versions.runtime), "cudaRuntimeGetVersion");
  versions.cublas = static_cast<std::int64_t>(cublasLtGetVersion());
#ifdef PLIMSOLL_HAVE_CUDNN
  versions.cudnn = static_cast<std::int64_t>(cudnnGetVersion());
#endif
  return versions;
}

std::unique_ptr<Device> make_cuda_device(const CudaDeviceOptions& options) {
  require_devices();
  int count = 0;
  check_cuda(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  require(options.index >= 0 && options.index < count, ErrorKind::Device, "GPU {} is not visible: there are {}",
          options.index, count);
  return std::make_unique<CudaDevice>(options);
}

}  // namespace plimsoll
