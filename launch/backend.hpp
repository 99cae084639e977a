#pragma once
// What a rank computes on: its device, and the kernels for it.

#include <memory>
#include <optional>
#include <span>

#include "launch/config.hpp"
#include "launch/device_transport.hpp"
#include "runtime/device/device.hpp"
#include "runtime/exec/kernel_table.hpp"

namespace plimsoll {

class Group;
struct Place;

struct Backend {
  std::unique_ptr<Device> device;
  KernelTable kernels;      // without collectives
  int sharing_ranks = 1;    // of this host, with the device's memory
  bool records = false;     // programs are recorded and replayed (ExecutorOptions)
  bool times_nodes = true;  // kernels are done when they return, so the host can time them
  int threads = 1;          // of kernels, as declarations count them: kDeviceThreads for those of a GPU
  // Behind the device that it is for; null: groups are those of the host.
  std::unique_ptr<DeviceTransports> transports;
};

// `threads`: of its kernels.
Backend make_cpu_backend(int threads);
// By `device`, `cuda` and `comm.transport` of the configuration, with a GPU by the local rank; fills config.gpu and
// what comm.transport is on GPUs where it was auto. Collective over `control`. Error(Config): this build has no CUDA,
// ranks would share a GPU without cuda.share, or NCCL would have to; Error(Device): this machine has no driver, no
// device, or not the libraries.
Backend make_backend(Config& config, const Place& place, const Group& control, int threads);

// A rank's GPU: its host, and the device's address on it.
struct RankGpu {
  std::uint64_t host = 0;  // a hash of its name
  std::array<char, 32> bus_id{};
};
// "ranks 0 and 2 have the same GPU …": the first two of them; nullopt: each has its own.
std::optional<std::string> shared_gpu(std::span<const RankGpu> ranks);

// Memory that this rank may count on now: its share of what is free, and what it has already.
std::int64_t free_bytes(const Backend& backend);
// What this rank has of the budget's memory besides an arena that it has not made yet, and room for what libraries
// allocate later.
std::int64_t outside_bytes(const Backend& backend);
// FLOP/s that are 100 % MFU on this rank, in `dtype`: of the data sheet where the device has one here, measured on the
// CPU; 0: unknown.
double peak_flops(const Backend& backend, const Config& config, int threads);

}  // namespace plimsoll
