#pragma once
// Messages over MPI. The communicator is the transport's own, so groups never mix up each other's messages, and each
// group may be used by a thread of its own (MPI_THREAD_MULTIPLE).

#include <memory>

#include "comm/transport.hpp"
#include "comm/watchdog.hpp"

namespace plimsoll {

// Throws Error(PeerLost) naming the call when `code` is not MPI_SUCCESS.
void check_mpi(int code, const char* what);

// Over all ranks, on a duplicate of MPI_COMM_WORLD (collective). The duplicate lives until MPI_Finalize: freeing it is
// collective too, and destructors never communicate. `native`: collectives are the MPI library's where it has them
// (comm.collectives: mpi): sums of all types but those of 16 bits, and every gather, of equal parts or not, where all
// counts are ints; it sums in an order of its own.
std::shared_ptr<Transport> make_mpi_transport(bool native = false);
// Over these ranks of MPI_COMM_WORLD, in this order; collective over them alone.
std::shared_ptr<Transport> make_mpi_transport(std::span<const int> ranks, bool native = false);

// Whether the MPI library says that it reads and writes the memory of CUDA devices. Open MPI 4 says what it was built
// with, even where that is turned off when it runs.
bool mpi_reaches_cuda();

// Between the watchdogs of all ranks. Collective.
std::unique_ptr<StallChannel> make_mpi_stall_channel();

}  // namespace plimsoll
