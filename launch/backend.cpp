#include "launch/backend.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "comm/group.hpp"
#include "comm/mpi_transport.hpp"
#include "kernels/cpu/gemm_rate.hpp"
#include "kernels/cpu/register.hpp"
#include "kernels/cuda_module.hpp"
#include "launch/process.hpp"
#include "launch/run_setup.hpp"
#include "runtime/core/rng.hpp"
#include "runtime/plan/device_table.hpp"

namespace plimsoll {
namespace {

// Kernels and their libraries come to a GPU when they are first called.
constexpr std::int64_t kRoomOnGpu = std::int64_t{512} << 20;
// Channels and buffers of NCCL's communicators, which are made when the plan is there.
constexpr std::int64_t kRoomForNccl = std::int64_t{1} << 30;

RankGpu rank_gpu(const CudaDeviceInfo& info) {
  RankGpu gpu;
  gpu.host = stream_id(host_name());
  std::memcpy(gpu.bus_id.data(), info.pci_bus_id.data(), std::min(info.pci_bus_id.size(), gpu.bus_id.size() - 1));
  return gpu;
}

bool same_gpu(const RankGpu& a, const RankGpu& b) { return a.host == b.host && a.bus_id == b.bus_id; }

Backend make_cuda_backend(Config& config, const Place& place, const Group& control) {
  require(cuda_is_built(), ErrorKind::Config, "{}: is cuda, but this build has none: build the preset cuda",
          key_place(config, "device"));
  const CudaModule& module = cuda_module();
  const std::vector<CudaDeviceInfo> devices = module.devices();
  CudaDeviceOptions options;
  options.index = place.local_rank % static_cast<int>(devices.size());
  options.tf32 = config.cuda.tf32;
  const CudaDeviceInfo& info = devices[static_cast<std::size_t>(options.index)];
  const RankGpu mine = rank_gpu(info);
  std::vector<RankGpu> all(static_cast<std::size_t>(place.ranks));
  control.gather_values(&mine, sizeof(mine), all.data());
  const auto shared = shared_gpu(all);
  require(!shared || config.cuda.share, ErrorKind::Config,
          "{}: {}; {} {} visible on this host: cuda.share: true allows that", key_place(config, "device"),
          shared.value_or(""), devices.size(), devices.size() == 1 ? "is" : "are");
  config.gpu = info.name;
  DeviceTransportChoice choice = choose_device_transport(config, shared, control, open_nccl);
  if (config.comm.transport == TransportName::Auto) config.comm.transport = choice.name;
  options.host_communication = choice.name == TransportName::Staged;
  Backend backend;
  backend.device = module.make_device(options);
  backend.threads = kDeviceThreads;
  if (place.ranks > 1)
    backend.transports = std::make_unique<DeviceTransports>(
        std::move(choice), *backend.device, fmt::format("{} {}", host_name(), info.pci_bus_id), mpi_reaches_cuda());
  backend.kernels = module.kernels(options);
  backend.sharing_ranks =
      static_cast<int>(std::count_if(all.begin(), all.end(), [&](const RankGpu& g) { return same_gpu(g, mine); }));
  backend.records = config.cuda.graphs == CudaGraphs::Auto;
  backend.times_nodes = false;
  return backend;
}

}  // namespace

Backend make_cpu_backend(int threads) {
  Backend backend;
  backend.device = make_cpu_device(threads);
  backend.kernels = cpu_kernels();
  backend.threads = threads;
  return backend;
}

Backend make_backend(Config& config, const Place& place, const Group& control, int threads) {
  if (config.device == DeviceKind::Cuda) return make_cuda_backend(config, place, control);
  Backend backend = make_cpu_backend(threads);
  backend.sharing_ranks = place.local_ranks;
  return backend;
}

std::optional<std::string> shared_gpu(std::span<const RankGpu> ranks) {
  for (std::size_t a = 0; a < ranks.size(); ++a) {
    for (std::size_t b = a + 1; b < ranks.size(); ++b) {
      if (same_gpu(ranks[a], ranks[b]))
        return fmt::format("ranks {} and {} have the same GPU ({})", a, b, ranks[a].bus_id.data());
    }
  }
  return std::nullopt;
}

std::int64_t free_bytes(const Backend& backend) {
  const std::int64_t share = backend.device->memory().free_bytes / backend.sharing_ranks;
  return share + backend.device->outside_bytes().value_or(0);
}

std::int64_t outside_bytes(const Backend& backend) {
  const auto on_device = backend.device->outside_bytes();
  if (!on_device) return outside_arena_bytes();
  return *on_device + kRoomOnGpu + (backend.transports && backend.transports->uses_nccl() ? kRoomForNccl : 0);
}

double peak_flops(const Backend& backend, const Config& config, int threads) {
  if (!backend.device->outside_bytes()) return measure_gemm_gflops(threads, config.precision) * 1e9;
  const GpuDataSheet* gpu = find_gpu(config.gpu);
  return gpu == nullptr ? 0 : peak_rate(*gpu, config.precision, config.cuda.tf32);
}

}  // namespace plimsoll
