// How watchdogs talk over MPI: on a communicator of their own, with messages that nobody waits for.

#include <mpi.h>

#include <memory>
#include <vector>

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
  }

  // A send that fails goes to a rank that is gone.
  void tell(const RankState& mine, int rank) override {
    std::erase_if(under_way_, [](const std::unique_ptr<Sent>& sent) {
      int done = 0;
      return MPI_Test(&sent->request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS || done != 0;
    });
    Sent& sent = *under_way_.emplace_back(std::make_unique<Sent>());
    sent.state = mine;
    (void)MPI_Isend(&sent.state, sizeof(sent.state), MPI_BYTE, rank, kTag, communicator_, &sent.request);
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
  struct Sent {
    RankState state;
    MPI_Request request = MPI_REQUEST_NULL;
  };
  std::vector<std::unique_ptr<Sent>> under_way_;
};

}  // namespace

std::unique_ptr<StallChannel> make_mpi_stall_channel() { return std::make_unique<MpiStallChannel>(); }

}  // namespace plimsoll
