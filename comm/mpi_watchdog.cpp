// How watchdogs talk over MPI: on a communicator of their own, with messages that nobody waits for.

#include <mpi.h>

#include "comm/mpi_transport.hpp"
#include "comm/watchdog.hpp"

namespace plimsoll {
namespace {

constexpr int kTag = 11;

class MpiStallChannel : public StallChannel {
 public:
  MpiStallChannel() {
    check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &communicator_), "MPI_Comm_dup");
    check_mpi(MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check_mpi(MPI_Comm_rank(communicator_, &rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(communicator_, &size_), "MPI_Comm_size");
  }

  // The process ends soon, so the requests are never completed. A send that fails goes to a rank that is gone.
  void tell(const RankState& mine) override {
    mine_ = mine;
    for (int peer = 0; peer < size_; ++peer) {
      MPI_Request request = MPI_REQUEST_NULL;
      if (peer != rank_) (void)MPI_Isend(&mine_, sizeof(mine_), MPI_BYTE, peer, kTag, communicator_, &request);
    }
  }

  bool poll(RankState& theirs) override {
    int here = 0;
    MPI_Status status;
    if (MPI_Iprobe(MPI_ANY_SOURCE, kTag, communicator_, &here, &status) != MPI_SUCCESS || here == 0) return false;
    return MPI_Recv(&theirs, sizeof(theirs), MPI_BYTE, status.MPI_SOURCE, kTag, communicator_, MPI_STATUS_IGNORE) ==
           MPI_SUCCESS;
  }

 private:
  MPI_Comm communicator_ = MPI_COMM_NULL;  // until MPI_Finalize
  int rank_ = 0, size_ = 1;
  RankState mine_;
};

}  // namespace

std::unique_ptr<StallChannel> make_mpi_stall_channel() { return std::make_unique<MpiStallChannel>(); }

}  // namespace plimsoll
