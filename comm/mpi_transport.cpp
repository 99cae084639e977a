#include "comm/mpi_transport.hpp"

#include <mpi.h>
#include <sched.h>
#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <string>
#include <thread>

#include "runtime/device/device.hpp"

namespace plimsoll {
namespace {

// MPI counts are int: longer messages go in chunks.
constexpr std::int64_t kMaxCount = std::numeric_limits<int>::max() / 4096 * 4096;
constexpr int kTag = 7;

MPI_Datatype mpi_type(DType t) {
  switch (t) {
    case DType::f32: return MPI_FLOAT;
    case DType::f64: return MPI_DOUBLE;
    case DType::i32: return MPI_INT32_T;
    case DType::i64: return MPI_INT64_T;
    default: return MPI_DATATYPE_NULL;
  }
}

class MpiTransport : public Transport {
 public:
  explicit MpiTransport(MPI_Comm communicator) : communicator_(communicator) {
    check_mpi(MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check_mpi(MPI_Comm_rank(communicator_, &rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(communicator_, &size_), "MPI_Comm_size");
    for (auto& slot : requests_) slot.reserve(static_cast<std::size_t>(4 * size_));
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void start(int slot, std::span<const Message> sends, std::span<const Message> receives) override {
    auto& requests = requests_[slot];
    requests.clear();
    for (const Message& m : receives) {
      in_chunks(m, [&](std::byte* data, int bytes) {
        check_mpi(MPI_Irecv(data, bytes, MPI_BYTE, m.peer, kTag, communicator_, &requests.emplace_back()), "MPI_Irecv");
      });
    }
    for (const Message& m : sends) {
      in_chunks(m, [&](std::byte* data, int bytes) {
        check_mpi(MPI_Isend(data, bytes, MPI_BYTE, m.peer, kTag, communicator_, &requests.emplace_back()), "MPI_Isend");
      });
      bytes_sent_ += m.bytes;
    }
  }

  void finish(int slot) override { wait_for(requests_[slot]); }

  // Sums only: MPI_MAX does not say what becomes of NaN. Started and tested, not called, so that it can be left like
  // any wait.
  bool native_all_reduce(View buffer, ReduceOp op) override {
    const MPI_Datatype type = mpi_type(buffer.spec.dtype);
    if (op != ReduceOp::Sum || type == MPI_DATATYPE_NULL) return false;
    const std::int64_t element = dtype_bytes(buffer.spec.dtype);
    for (std::int64_t first = 0; first < buffer.spec.elements(); first += kMaxCount) {
      const auto count = static_cast<int>(std::min(kMaxCount, buffer.spec.elements() - first));
      MPI_Request request = MPI_REQUEST_NULL;
      check_mpi(MPI_Iallreduce(MPI_IN_PLACE, static_cast<std::byte*>(buffer.data) + first * element, count, type,
                               MPI_SUM, communicator_, &request),
                "MPI_Iallreduce");
      wait_for({&request, 1});
    }
    bytes_sent_ += 2 * buffer.spec.bytes() * (size_ - 1) / size_;  // what a ring sends; MPI does not say
    return true;
  }

 private:
  // Open MPI moves data only inside its calls, so the wait is a loop of tests; it gives the core away in between, since
  // the compute threads may need it.
  static void wait_for(std::span<MPI_Request> requests) {
    constexpr int kSpins = 200;
    for (int tries = 0;; ++tries) {
      int done = 0;
      check_mpi(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE),
                "MPI_Testall");
      if (done != 0) return;
      require(!stop_requested(), ErrorKind::PeerLost, "this rank failed while it waited for messages of others");
      if (tries < kSpins) {
        sched_yield();
      } else {
        fine_timers();
        std::this_thread::sleep_for(std::chrono::microseconds(20));
      }
    }
  }
  template <class Call>
  static void in_chunks(const Message& m, const Call& call) {
    for (std::int64_t first = 0; first < m.bytes; first += kMaxCount) {
      call(static_cast<std::byte*>(m.data) + first, static_cast<int>(std::min(kMaxCount, m.bytes - first)));
    }
  }
  // Linux rounds short sleeps up by 50 us unless the thread asks for less.
  static void fine_timers() {
    thread_local bool set = false;
    if (!set) prctl(PR_SET_TIMERSLACK, 1000UL);
    set = true;
  }

  MPI_Comm communicator_ = MPI_COMM_NULL;  // until MPI_Finalize: freeing it is collective
  int rank_ = 0, size_ = 1;
  std::vector<MPI_Request> requests_[2];
};

}  // namespace

void check_mpi(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  fail(ErrorKind::PeerLost, "{} failed: {}", what, std::string(text, static_cast<std::size_t>(length)));
}

std::shared_ptr<Transport> make_mpi_transport() {
  MPI_Comm copy = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &copy), "MPI_Comm_dup");
  return std::make_shared<MpiTransport>(copy);
}

std::shared_ptr<Transport> make_mpi_transport(std::span<const int> ranks) {
  MPI_Group world = MPI_GROUP_NULL, some = MPI_GROUP_NULL;
  MPI_Comm communicator = MPI_COMM_NULL;
  check_mpi(MPI_Comm_group(MPI_COMM_WORLD, &world), "MPI_Comm_group");
  check_mpi(MPI_Group_incl(world, static_cast<int>(ranks.size()), ranks.data(), &some), "MPI_Group_incl");
  check_mpi(MPI_Comm_create_group(MPI_COMM_WORLD, some, kTag, &communicator), "MPI_Comm_create_group");
  check_mpi(MPI_Group_free(&some), "MPI_Group_free");
  check_mpi(MPI_Group_free(&world), "MPI_Group_free");
  return std::make_shared<MpiTransport>(communicator);
}

}  // namespace plimsoll
