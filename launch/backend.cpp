#include "launch/backend.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "comm/group.hpp"
#include "comm/mpi_transport.hpp"
#include "kernels/cpu/gemm_rate.hpp"
#include "kernels/cpu/register.hpp"
#include "kernels/cuda_errors.hpp"
#include "kernels/cuda_module.hpp"
#include "launch/device_rates.hpp"
#include "launch/node_runner.hpp"
#include "launch/probe_cluster.hpp"
#include "launch/process.hpp"
#include "launch/run_setup.hpp"
#include "runtime/core/rng.hpp"
#include "runtime/ops/attention_device.hpp"
#include "runtime/plan/device_table.hpp"

namespace plimsoll {
namespace {

// Messages that each group of a library carries first: NCCL chooses how by their size, and connects each way when it
// first takes it.
constexpr std::array<std::int64_t, 4> kFirstMessages{std::int64_t{1} << 10, std::int64_t{1} << 20,
                                                     std::int64_t{16} << 20, std::int64_t{128} << 20};
// Tokens of the first product and the first attention, at most.
constexpr std::int64_t kFirstTokens = 4096;

RankGpu rank_gpu(const CudaDeviceInfo& info, const CudaVersions& versions) {
  RankGpu gpu;
  gpu.host = stream_id(host_name());
  std::memcpy(gpu.bus_id.data(), info.pci_bus_id.data(), std::min(info.pci_bus_id.size(), gpu.bus_id.size() - 1));
  std::memcpy(gpu.name.data(), info.name.data(), std::min(info.name.size(), gpu.name.size() - 1));
  gpu.memory_bytes = info.memory_bytes;
  gpu.compute_capability = 10 * info.major + info.minor;
  gpu.cudnn = versions.cudnn;
  return gpu;
}

// What the times of its kernels depend on.
std::string kernels_name(const CudaDeviceInfo& info, const CudaModule& module, const CudaDeviceOptions& options) {
  const CudaVersions versions = module.versions();
  return fmt::format("{}{}{}, module {:016x}, cuBLAS {}, cuDNN {}", info.name, options.tf32 ? " with TF32" : "",
                     options.epilogues ? "" : " without epilogues", hash_of_file(cuda_module_file().string()),
                     versions.cublas, versions.cudnn);
}

PrecisionRates peak_of(const std::string& gpu, bool tf32) {
  const GpuDataSheet* sheet = find_gpu(gpu);
  if (sheet == nullptr) return {};
  PrecisionRates peak = sheet->peak;
  peak.fp32 = peak_rate(*sheet, DType::f32, tf32);
  return peak;
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
  options.epilogues = config.cuda.epilogues == CudaUse::Auto;
  const CudaDeviceInfo& info = devices[static_cast<std::size_t>(options.index)];
  const auto fp8_fault = fp8_gpu_fault(info.name, info.major, info.minor);
  if (fp8_fault && config.fp8 != Fp8Use::Off) fail(ErrorKind::Config, "{}: {}", key_place(config, "fp8"), *fp8_fault);
  RankGpu mine = rank_gpu(info, module.versions());
  std::vector<RankGpu> all(static_cast<std::size_t>(place.ranks));
  control.gather_values(&mine, sizeof(mine), all.data());
  const auto shared = shared_gpu(all);
  require(!shared || config.cuda.share, ErrorKind::Config,
          "{}: {}; {} {} visible on this host: cuda.share: true allows that", key_place(config, "device"),
          shared.value_or(""), devices.size(), devices.size() == 1 ? "is" : "are");
  DeviceTransportChoice choice = choose_device_transport(config, shared, control, open_nccl);
  if (config.comm.transport == TransportName::Auto) config.comm.transport = choice.name;
  options.host_communication = choice.name == TransportName::Staged;
  Backend backend;
  backend.name = info.name;
  backend.kernels_name = kernels_name(info, module, options);
  backend.peak = peak_of(info.name, options.tf32);
  backend.threads = kDeviceThreads;
  backend.kernels = module.kernels(options);
  backend.sharing_ranks =
      static_cast<int>(std::count_if(all.begin(), all.end(), [&](const RankGpu& g) { return same_gpu(g, mine); }));
  backend.fused_heads = common_fused_heads(all);  // for the first calls
  // The free memory of a device is that of all who use it: what this rank keeps is seen while nobody else changes it.
  take_turns(control, all, [&] {
    backend.device = module.make_device(options);
    warm_up(backend, config.model, config.precision, config.data.sequence);
    backend.kept_bytes = backend.device->outside_bytes().value_or(0);
  });
  // What the library is made for, this installation of it may not do: its kernels are compiled now, by NVRTC.
  mine.attends = !module.attention_refused();
  control.gather_values(&mine, sizeof(mine), all.data());
  backend.fused_heads = common_fused_heads(all);
  backend.unfused = unfused_reason(all);
  if (place.ranks > 1)
    backend.transports = std::make_unique<DeviceTransports>(
        std::move(choice), *backend.device, fmt::format("{} {}", host_name(), info.pci_bus_id),
        config.cuda.aware_mpi == CudaUse::Auto && mpi_reaches_cuda());
  backend.fp8 = !fp8_fault;
  backend.records = config.cuda.graphs == CudaUse::Auto;
  config.gpu = find_gpus(all, control, backend);
  return backend;
}

}  // namespace

std::optional<std::string> fp8_gpu_fault(const std::string& gpu, int major, int minor) {
  if (major > 8 || (major == 8 && minor >= 9)) return std::nullopt;
  return fmt::format("linears need a GPU of compute capability 8.9 or above, {} has {}.{}", gpu, major, minor);
}

Backend make_cpu_backend(int threads) {
  Backend backend;
  backend.name = cpu_model();
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

FusedHeads common_fused_heads(std::span<const RankGpu> all) {
  FusedHeads common = fused_heads(all.front().compute_capability, all.front().cudnn);
  for (const RankGpu& gpu : all) {
    const FusedHeads of_gpu = gpu.attends ? fused_heads(gpu.compute_capability, gpu.cudnn) : FusedHeads{0, 0};
    common = {std::min(common.forward, of_gpu.forward), std::min(common.backward, of_gpu.backward)};
  }
  return common;
}

std::string unfused_reason(std::span<const RankGpu> all) {
  const auto without =
      std::find_if(all.begin(), all.end(), [](const RankGpu& g) { return g.cudnn < kOldestCudnn || !g.attends; });
  if (without == all.end()) return "";
  const std::string has = fmt::format("cuDNN {}", library_version_text(without->cudnn));
  const std::string least = fmt::format("cuDNN {} or later", library_version_text(kOldestCudnn));
  std::pair what_and_remedy{has + ", which has no plan for it",
                            std::string("that rank's warning says why; where NVRTC (libnvrtc, libnvrtc-builtins) of "
                                        "CUDA is missing, install it")};
  if (without->cudnn == 0) {
    what_and_remedy = {"no cuDNN", "build it where CMake finds " + least};
  } else if (without->cudnn < kOldestCudnn) {
    what_and_remedy = {has, "install " + least};
  }
  return fmt::format(
      "the CUDA module of rank {} has {}: kernels without tensor cores compute attention, and all ranks plan for that; "
      "{}",
      without - all.begin(), what_and_remedy.first, what_and_remedy.second);
}

FoundGpu find_gpus(std::span<const RankGpu> all, const Group& control, Backend& backend) {
  FoundGpu found{all.front().name.data(), all.front().memory_bytes, {}, common_fused_heads(all)};
  const bool described = std::all_of(all.begin(), all.end(), [](const RankGpu& g) { return find_gpu(g.name.data()); });
  if (described) return found;
  found.measured = measure_device(control, backend, 1);
  found.measured->name = found.name;
  return found;
}

TransportOver transport_over(Backend& backend) {
  if (!backend.transports) return {};
  return [&backend](const std::string& axis, std::shared_ptr<Transport> below, std::shared_ptr<WatchedGroup> watch) {
    return backend.transports->over(axis, std::move(below), std::move(watch));
  };
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

void take_turns(const Group& control, std::span<const RankGpu> all, const std::function<void()>& work) {
  const auto before = [&](std::size_t rank) {  // ranks with its GPU that come first
    return std::count_if(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(rank),
                         [&](const RankGpu& g) { return same_gpu(g, all[rank]); });
  };
  const std::ptrdiff_t mine = before(static_cast<std::size_t>(control.rank()));
  std::ptrdiff_t last = 0;
  for (std::size_t rank = 0; rank < all.size(); ++rank) last = std::max(last, before(rank));
  for (std::ptrdiff_t turn = 0; turn <= last; ++turn) {
    if (turn == mine) work();
    control.barrier();
  }
}

void warm_up(Backend& backend, const ModelConfig& given, DType dtype, std::int64_t sequence) {
  if (!backend.device->outside_bytes()) return;
  const ModelConfig model = resolve(given);
  Device& device = *backend.device;
  const std::int64_t tokens = std::clamp<std::int64_t>(sequence, 1, kFirstTokens);
  SlotSpecs product, attention;
  product.set(Linear::kX, {{tokens, model.hidden}, dtype});
  product.set(Linear::kWeight, {{model.hidden, model.hidden}, dtype});
  product.set(Linear::kBias, {{model.hidden}, dtype});
  const HeadLayout heads{static_cast<int>(model.heads), static_cast<int>(model.kv_heads),
                         static_cast<int>(model.head_dim)};
  attention.set(Attention::kQkv, {{1, tokens, heads.packed_width()}, dtype});
  Attention::Attrs scaled{heads, 1 / std::sqrt(static_cast<double>(heads.head_dim))};
  scaled.fused_heads = backend.fused_heads;
  const auto stream = device.make_stream(StreamKind::Compute);
  for (const Node& node : {lone_node<Linear>({}, product), lone_node<Linear>({}, product, Phase::InputGrad),
                           lone_node<Linear>({}, product, Phase::WeightGrad), lone_node<Attention>(scaled, attention),
                           lone_node<Attention>(scaled, attention, Phase::InputGrad)}) {
    const Kernel kernel = NodeRunner::kernel_of(backend.kernels, node);
    if (kernel == nullptr) continue;  // the run will say so
    NodeRunner runner(device, *stream, kernel, node, backend.threads);
    runner.launch();
    stream->synchronize();
  }
}

namespace {

// Every rank sends to the next one and receives from the one before, on the way that such messages have.
void send_around(const Group& group, const View& sent, const View& received, bool back, const CallSite& at) {
  const int ranks = group.size(), rank = group.rank(), step = back ? ranks - 1 : 1;
  const int to = (rank + step) % ranks, from = (rank + ranks - step) % ranks;
  const bool first = rank % 2 == 0;
  if (first) group.send(sent, to, at);
  group.receive(received, from, at);
  if (!first) group.send(sent, to, at);
}

// What a step asks of the groups of an axis.
void call_group(const Group& group, Device& device, Stream& stream, std::int64_t bytes) {
  const std::int64_t floats = std::max<std::int64_t>(1, bytes / dtype_bytes(DType::f32) / group.size());
  const TensorSpec all{{floats * group.size()}, DType::f32}, mine{{floats}, DType::f32};
  DeviceBuffer buffer(device, DeviceBuffer::rounded(all.bytes()) + DeviceBuffer::rounded(mine.bytes()));
  struct Call {
    const Group* group;
    Stream* stream;
    View whole, part;
  } call{&group, &stream, {buffer.take(all.bytes()), all}, {buffer.take(mine.bytes()), mine}};
  device.fill(call.whole.data, 0, call.whole.spec.bytes());
  device.fill(call.part.data, 0, call.part.spec.bytes());
  stream.launch({[](void* c) {
                   const auto& [asked, on, whole, part] = *static_cast<const Call*>(c);
                   const CallSite at("first call", on);
                   if (asked->axis().starts_with("pipeline")) {
                     send_around(*asked, part, {whole.data, part.spec}, asked->axis() == "pipeline_back", at);
                     return;
                   }
                   asked->all_reduce(whole, ReduceOp::Sum, nullptr, at);
                   asked->reduce_scatter(whole, part, ReduceOp::Sum, nullptr, at);
                   asked->all_gather(part, whole, at);
                 },
                 &call});
  stream.synchronize();
}

}  // namespace

Groups connect_groups(Backend& backend, const Mesh& mesh, int rank, const GroupMaker& make) {
  const bool counts = backend.transports && backend.transports->uses_nccl();
  if (!counts) return make_groups(mesh, rank, make);
  Device& device = *backend.device;
  backend.transports->close();
  const std::int64_t before = device.outside_bytes().value_or(0);
  Groups groups = make_groups(mesh, rank, make);
  const auto stream = device.make_stream(StreamKind::Communication);
  for (const std::string_view axis : kMeshAxes) {
    const Group& group = groups.find(axis)->second;
    for (const std::int64_t bytes : kFirstMessages) {
      if (group.size() > 1) call_group(group, device, *stream, bytes);
    }
  }
  backend.group_bytes = std::max<std::int64_t>(0, device.outside_bytes().value_or(0) - before);
  return groups;
}

std::int64_t free_bytes(const Backend& backend) {
  const std::int64_t share = backend.device->memory().free_bytes / backend.sharing_ranks;
  return share + (backend.device->outside_bytes() ? bytes_outside_now(backend) : 0);
}

std::int64_t outside_bytes(const Backend& backend) {
  if (!backend.device->outside_bytes()) return outside_arena_bytes();
  return backend.kept_bytes + backend.group_bytes + kGpuAllowanceBytes;
}

std::int64_t least_outside_bytes(const Backend& backend) {
  return outside_bytes(backend) - allowance_bytes(backend.device->outside_bytes().has_value()) / 4;
}

std::int64_t bytes_outside_now(const Backend& backend) {
  const std::int64_t at_start = backend.kept_bytes + backend.group_bytes;
  return backend.sharing_ranks > 1 ? at_start : backend.device->outside_bytes().value_or(at_start);
}

double peak_flops(Backend& backend, const Config& config, int threads, const Place& place) {
  if (!backend.device->outside_bytes()) {
    const double part = place.cores > 0 ? std::min(1.0, place.cores / threads) : 1;
    return part * measure_gemm_gflops(threads, config.precision) * 1e9;
  }
  const double of_sheet = backend.peak.of(config.precision);
  const double of_device = of_sheet > 0 ? of_sheet : product_flops_per_s(backend, config.precision);
  return of_device / backend.sharing_ranks;
}

}  // namespace plimsoll
