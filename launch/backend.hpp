#pragma once
// What a rank computes on: its device, and the kernels for it.

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "launch/config.hpp"
#include "launch/device_transport.hpp"
#include "launch/groups.hpp"
#include "runtime/device/device.hpp"
#include "runtime/exec/kernel_table.hpp"

namespace plimsoll {

class Group;
struct Place;

// A rank's GPU: its host, the device's address on it, and what it is.
struct RankGpu {
  std::uint64_t host = 0;  // a hash of its name
  std::array<char, 32> bus_id{};
  std::array<char, 96> name{};  // the driver's
  std::int64_t memory_bytes = 0;
  int compute_capability = 0;  // as in GpuDataSheet
  std::int64_t cudnn = 0;      // of the rank's module, as CudaVersions has it
  bool attends = true;         // that had a plan for whatever attention was wanted of it so far
};

struct Backend {
  std::string name;  // of the processor or the GPU
  // Of a GPU, with what else times of kernels depend on: the module and its libraries. Empty: the CPU.
  std::string kernels_name;
  PrecisionRates peak;  // of its data sheet; 0: it has none here
  std::unique_ptr<Device> device;
  // Of a device with memory of its own: what context and libraries keep of it after a first call of each, as this rank
  // found it when nobody else of the run used the device; and what the groups of the run do (connect_groups).
  std::int64_t kept_bytes = 0, group_bytes = 0;
  KernelTable kernels;     // without collectives
  int sharing_ranks = 1;   // of this host, with the device's memory
  bool records = false;    // programs are recorded and replayed (ExecutorOptions)
  bool fp8 = true;         // it multiplies fp8: fp8_gpu_fault()
  FusedHeads fused_heads;  // of the GPUs of all ranks
  std::string unfused;     // unfused_reason()
  int threads = 1;         // of kernels, as declarations count them: kDeviceThreads for those of a GPU
  // Behind the device that it is for; null: groups are those of the host.
  std::unique_ptr<DeviceTransports> transports;
};

// `threads`: of its kernels.
Backend make_cpu_backend(int threads);
// By `device`, `cuda` and `comm.transport` of the configuration, with a GPU by the local rank; fills config.gpu and
// what comm.transport is on GPUs where it was auto. GPUs of which one has no data sheet here are measured, all at once.
// Collective over `control`. Error(Config): this build has no CUDA, ranks would share a GPU without cuda.share, or NCCL
// would have to; Error(Device): this machine has no driver, no device, or not the libraries.
Backend make_backend(Config& config, const Place& place, const Group& control, int threads);

// A call of each kernel library on a device with memory of its own, at the sizes of a model and in the dtype of its
// run: handles, kernels' code and what else libraries keep come to the device, and nothing else is left there. What
// the model leaves open is as resolve() has it.
void warm_up(Backend& backend, const ModelConfig& model, DType dtype, std::int64_t sequence);
// work() of this rank, while no other rank with the same GPU is in its own; on return all have done theirs. `all`: by
// rank of `control`, over which this is collective.
void take_turns(const Group& control, std::span<const RankGpu> all, const std::function<void()>& work);

// The groups of a mesh (make_groups), with what they keep of the device's memory in `group_bytes`: each has carried
// every collective of its axis, small and large, where the transport is a library on the device (NCCL connects at the
// first call). Those that were made before are closed. Collective over all ranks.
Groups connect_groups(Backend& backend, const Mesh& mesh, int rank, const GroupMaker& make);

// Widest heads that the library computes on each of them; none where a rank has no library, or an old one, or one that
// refused.
FusedHeads common_fused_heads(std::span<const RankGpu> all);
// Which rank has none that computes attention, and what to do about it; empty: all have one.
std::string unfused_reason(std::span<const RankGpu> all);
// What all ranks plan for, so that they plan alike: the GPU of rank 0, with common_fused_heads(); where one of `all`
// has no data sheet, what the slowest of them reaches, measured now. Collective over `control`.
FoundGpu find_gpus(std::span<const RankGpu> all, const Group& control, Backend& backend);

// What groups of this backend put over transports of MPI; empty: nothing. The backend outlives it.
TransportOver transport_over(Backend& backend);

// "ranks 0 and 2 have the same GPU …": the first two of them; nullopt: each has its own.
std::optional<std::string> shared_gpu(std::span<const RankGpu> ranks);

// Memory that this rank may count on now: its share of what is free, and what it has already.
std::int64_t free_bytes(const Backend& backend);
// What this rank has of the budget's memory besides an arena that it has not made yet, and room for what libraries
// allocate later.
std::int64_t outside_bytes(const Backend& backend);
// Less than this may not be left for it by hand: the same with three quarters of the room, since two starts of one run
// do not measure the same to the byte.
std::int64_t least_outside_bytes(const Backend& backend);
// What it has of a device's memory besides its arena, without such room: measured now, and at the start where ranks
// share the device.
std::int64_t bytes_outside_now(const Backend& backend);
// The most that this was, whenever it was looked at: between steps.
class OutsidePeak {
 public:
  explicit OutsidePeak(const Backend& backend) : backend_(backend) {}
  std::int64_t look() { return bytes_ = std::max(bytes_, bytes_outside_now(backend_)); }
  std::int64_t bytes() const { return bytes_; }

 private:
  const Backend& backend_;
  std::int64_t bytes_ = 0;
};
// Why a GPU of this compute capability has no tensor cores for fp8; nullopt: it has.
std::optional<std::string> fp8_gpu_fault(const std::string& gpu, int major, int minor);

// FLOP/s that are 100 % MFU on this rank, in the run's precision: of the data sheet where the device has one here, else
// measured. A rank that shares its device or cores has its part of them: a product that is measured may have had them
// for itself.
double peak_flops(Backend& backend, const Config& config, int threads, const Place& place);

}  // namespace plimsoll
