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
// collective too, and destructors never communicate.
std::shared_ptr<Transport> make_mpi_transport();
// Over these ranks of MPI_COMM_WORLD, in this order; collective over them alone.
std::shared_ptr<Transport> make_mpi_transport(std::span<const int> ranks);

// Between the watchdogs of all ranks. Collective.
std::unique_ptr<StallChannel> make_mpi_stall_channel();

}  // namespace plimsoll
