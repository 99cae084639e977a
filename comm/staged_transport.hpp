#pragma once
// Collectives on device memory over a transport of the host: pieces are copied to pinned host memory, go their way
// there and are copied back, while the piece before and the piece behind are copied. For ranks that share a device, and
// where there is no NCCL. Calls without a stream are of host memory and go straight to the transport below.
//
// Bits are those of the transport below: sums are made on the host, in rank order. A call first waits for what its task
// has asked the stream for, and is done on return: where it is to run beside compute, tasks must run on a thread of the
// host, as those of the device's communication streams do (kernels/cuda_module.hpp: host_communication).

#include <memory>

#include "comm/transport.hpp"
#include "runtime/device/device.hpp"

namespace plimsoll {

// Bytes of one piece. Two are under way, of what is sent and of what is received.
inline constexpr std::int64_t kStagedPieceBytes = std::int64_t{4} << 20;

struct StagedOptions {
  // The transport below reaches device memory itself (mpi_reaches_cuda()): what is only moved is not copied.
  bool direct = false;
  std::int64_t piece_bytes = kStagedPieceBytes;
};

// Host memory that one of them takes.
std::int64_t staged_host_bytes(int ranks, const StagedOptions& options = {});

// `below` carries host memory. `device` outlives the transport; the host memory is allocated here. Error(OutOfMemory).
std::shared_ptr<Transport> make_staged_transport(std::shared_ptr<Transport> below, Device& device,
                                                 const StagedOptions& options = {});

}  // namespace plimsoll
