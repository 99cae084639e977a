#pragma once
// What carries tensors between ranks whose memory the host does not reach: NCCL, or staged through host memory
// (comm.transport).

#include <memory>
#include <string>
#include <vector>

#include "comm/nccl_api.hpp"
#include "comm/nccl_transport.hpp"
#include "launch/bootstrap.hpp"
#include "launch/config.hpp"
#include "runtime/device/arena.hpp"

namespace plimsoll {

// comm.transport of a run on GPUs, one of self, nccl and staged. Of auto, nccl where this build has it, every rank has
// its library (`open`, which may throw) and no two ranks share a GPU. Error(Config): nccl was asked for, and two do.
// `shared`: who, as shared_gpu() has it. Collective over `control`.
struct DeviceTransportChoice {
  TransportName name = TransportName::Self;
  std::shared_ptr<NcclApi> nccl;
  std::string reason;  // why auto was not nccl
};
using NcclOpener = std::function<std::shared_ptr<NcclApi>()>;
DeviceTransportChoice choose_device_transport(const Config& config, const std::optional<std::string>& shared,
                                              const Group& control, const NcclOpener& open);

// The transports of all groups of a rank.
class DeviceTransports {
 public:
  // `address`: of the device among those of all hosts. `direct`: MPI reaches the device's memory. `device` outlives the
  // transports.
  DeviceTransports(DeviceTransportChoice choice, Device& device, std::string address, bool direct)
      : choice_(std::move(choice)), device_(device), address_(std::move(address)), direct_(direct) {}
  // Over a transport of host memory. Collective over its ranks.
  std::shared_ptr<Transport> over(const std::string& axis, std::shared_ptr<Transport> below,
                                  std::shared_ptr<WatchedGroup> watch);
  // What is sent lies there: once, until close(). Whether NCCL has it registered, on all ranks or on none. Collective
  // over `control`.
  bool register_memory(const Arena& arena, const Group& control);
  // Collective, when all work on the device is done.
  void close();
  // Ends what the device waits for of other ranks, so that its memory can be given back. After close(): nothing.
  void abort() noexcept;
  bool uses_nccl() const { return choice_.name == TransportName::Nccl; }
  // "NCCL 2.28.9" | "staged through host memory (ranks 0 and 1 have the same GPU)"; empty: there is one rank.
  std::string text() const;

 private:
  DeviceTransportChoice choice_;
  Device& device_;
  std::string address_;
  bool direct_;
  std::vector<std::shared_ptr<NcclTransport>> nccl_;
};

}  // namespace plimsoll
