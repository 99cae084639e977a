#pragma once
// Collectives on device memory by NCCL, queued on the stream of the task that asks. Calls without a stream are of host
// memory and go over the control transport, which also carries the communicators' ids.
//
// A sum is NCCL's: in an order of its own, which repeats from run to run on the same devices, and of bf16 and f16
// rounded on its way. The watchdog polls: it knows a call from the time when the device has come to it until the device
// has done it, and an error that NCCL finds ends the run. A maximum may pass over NaN.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "comm/nccl_api.hpp"
#include "comm/transport.hpp"
#include "comm/watchdog.hpp"
#include "runtime/device/device.hpp"

namespace plimsoll {

struct NcclOptions {
  std::string axis;
  // Of this rank: a text that is the same for ranks that share a device, as host and PCI bus id.
  std::string device;
  // Of messages between two, from rank to rank of the group, the same list on all ranks: each has a communicator of its
  // own, so that what is received ahead holds up nothing that is sent. Others share one, in the order of their calls.
  std::vector<std::pair<int, int>> directions = {};
  double start_s = 300;  // for all ranks to come
};

// Between neighbours of a pipeline: from each rank to the next, or to the one before.
enum class Towards : std::uint8_t { Next, Previous };
std::vector<std::pair<int, int>> neighbour_directions(int ranks, Towards towards);

class NcclTransport : public Transport {
 public:
  // Whether NCCL took it in all communicators. Once; where it did not on one of the ranks, all deregister it.
  virtual bool register_memory(void* memory, std::int64_t bytes) = 0;
  virtual void deregister_memory() = 0;
  // Closes the communicators; collective. All work on the device is done. Without it the destructor aborts them.
  virtual void close() = 0;
  // Ends what the device waits for, and the communicators. After close(): nothing.
  virtual void abort() noexcept = 0;
};

// Collective over `control`, which outlives nothing. `device` outlives the transport, and so does the watchdog of
// `watch` (may be null: then nobody polls). Error(Device) when ranks share a device, which NCCL does not allow, or do
// not come, and on all of them where one cannot make an id.
std::shared_ptr<NcclTransport> make_nccl_transport(std::shared_ptr<NcclApi> api, std::shared_ptr<Transport> control,
                                                   Device& device, const NcclOptions& options,
                                                   std::shared_ptr<WatchedGroup> watch = nullptr);

}  // namespace plimsoll
