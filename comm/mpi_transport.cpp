#include "comm/mpi_transport.hpp"

#include <mpi.h>
#if __has_include(<mpi-ext.h>)
#include <mpi-ext.h>
#endif
#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <string>
#include <thread>

#include "comm/group.hpp"
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

class MpiTransport : public Transport, public WholeCollectives {
 public:
  MpiTransport(MPI_Comm communicator, bool native) : communicator_(communicator), native_(native) {
    check_mpi(MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check_mpi(MPI_Comm_rank(communicator_, &rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(communicator_, &size_), "MPI_Comm_size");
    for (auto& slot : requests_) slot.reserve(static_cast<std::size_t>(4 * size_));
    counts_.resize(static_cast<std::size_t>(size_));
    places_.resize(counts_.size());
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

  WholeCollectives* whole(const CallSite&) override { return native_ ? this : nullptr; }

  // Collectives are started and tested, not called, so that they can be left like any wait.

  // Sums only: MPI_MAX does not say what becomes of NaN.
  bool all_reduce(View buffer, ReduceOp op, const CallSite&) override {
    const MPI_Datatype type = mpi_type(buffer.spec.dtype);
    if (op != ReduceOp::Sum || type == MPI_DATATYPE_NULL) return false;
    for (std::int64_t first = 0; first < buffer.spec.elements(); first += kMaxCount) {
      const auto count = static_cast<int>(std::min(kMaxCount, buffer.spec.elements() - first));
      MPI_Request request = MPI_REQUEST_NULL;
      check_mpi(MPI_Iallreduce(MPI_IN_PLACE, element_at(buffer, first), count, type, MPI_SUM, communicator_, &request),
                "MPI_Iallreduce");
      wait_for({&request, 1});
    }
    const ElementRange mine = range_of_rank(buffer.spec.elements(), rank_, size_);
    count_sent(buffer, buffer.spec.elements() - mine.count + (size_ - 1) * mine.count);
    return true;
  }

  bool reduce_scatter(View in, View out, ReduceOp op, const RankCuts& cuts, const CallSite&) override {
    const MPI_Datatype type = mpi_type(in.spec.dtype);
    if (op != ReduceOp::Sum || type == MPI_DATATYPE_NULL || !set_counts(in.spec.elements(), 1, cuts)) return false;
    // MPI takes no result that lies in what it reads.
    const auto bytes = static_cast<std::size_t>(out.spec.bytes());
    const bool aside = out.data >= in.data && out.as<std::byte>() < in.as<std::byte>() + in.spec.bytes();
    if (aside) aside_.resize(std::max(aside_.size(), bytes));
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Ireduce_scatter(in.data, aside ? aside_.data() : out.data, counts_.data(), type, MPI_SUM,
                                  communicator_, &request),
              "MPI_Ireduce_scatter");
    wait_for({&request, 1});
    if (aside) std::memcpy(out.data, aside_.data(), bytes);
    count_sent(in, in.spec.elements() - out.spec.elements());
    return true;
  }

  bool all_reduce(View x, ReduceOp op, std::span<const ElementRange> ranges, const CallSite& at) override {
    bool done = true;
    for (const ElementRange& range : ranges)
      done = done && all_reduce({element_at(x, range.first), {{range.count}, x.spec.dtype}}, op, at);
    return done;
  }

  bool reduce_scatter(View in, View out, ReduceOp op, std::span<const JoinedPart> parts, const CallSite& at) override {
    if (!fits(in)) return false;
    bool done = true;
    for_each_scattered(in, out, parts, rank_, size_, [&](View tensor, View mine, const RankCuts& cuts) {
      done = done && reduce_scatter(tensor, mine, op, cuts, at);
    });
    return done;
  }

  bool all_gather(View in, View out, const RankCuts& cuts, const CallSite&) override {
    if (!fits(out)) return false;
    gather(in, out, cuts);
    return true;
  }

  bool all_gather(View in, View out, std::span<const JoinedPart> parts, const CallSite&) override {
    if (!fits(out)) return false;
    for_each_gathered(in, out, parts, rank_, size_,
                      [&](View mine, View tensor, const RankCuts& cuts) { gather(mine, tensor, cuts); });
    return true;
  }

  bool send(View, int, const CallSite&) override { return false; }  // messages are MPI's anyway
  bool receive(View, int, const CallSite&) override { return false; }

 private:
  // Open MPI moves data only inside its calls, so the wait is a loop of tests. After the first ones it sleeps in
  // between, since computing threads may need the core: a thread that slept gets it back at once, one that yielded when
  // they have had their slices.
  static void wait_for(std::span<MPI_Request> requests) {
    constexpr int kSpins = 10;
    for (int tries = 0;; ++tries) {
      int done = 0;
      check_mpi(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE),
                "MPI_Testall");
      if (done != 0) return;
      require(!stop_requested(), ErrorKind::PeerLost, "this rank failed while it waited for messages of others");
      if (tries < kSpins) continue;
      fine_timers();
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }
  static bool fits(const View& whole) { return whole.spec.bytes() <= std::numeric_limits<int>::max(); }
  void count_sent(const View& v, std::int64_t elements) { bytes_sent_ += elements * dtype_bytes(v.spec.dtype); }
  // What each rank has of n elements, in units of `unit` bytes; false where that is no int.
  bool set_counts(std::int64_t n, std::int64_t unit, const RankCuts& cuts) {
    if (n * unit > std::numeric_limits<int>::max()) return false;
    for (int r = 0; r < size_; ++r) {
      const ElementRange range = range_of_rank(n, r, size_, cuts);
      counts_[static_cast<std::size_t>(r)] = static_cast<int>(range.count * unit);
      places_[static_cast<std::size_t>(r)] = static_cast<int>(range.first * unit);
    }
    return true;
  }
  void gather(const View& in, const View& out, const RankCuts& cuts) {
    const std::int64_t n = out.spec.elements();
    const ElementRange mine = range_of_rank(n, rank_, size_, cuts);
    std::byte* place = element_at(out, mine.first);
    if (place != in.data && mine.count > 0)
      std::memcpy(place, in.data, static_cast<std::size_t>(mine.count * dtype_bytes(in.spec.dtype)));
    set_counts(n, dtype_bytes(out.spec.dtype), cuts);
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, out.data, counts_.data(), places_.data(), MPI_BYTE,
                              communicator_, &request),
              "MPI_Iallgatherv");
    wait_for({&request, 1});
    count_sent(out, (size_ - 1) * mine.count);
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
  bool native_;
  std::vector<MPI_Request> requests_[2];
  // Of the one whole collective at a time.
  std::vector<int> counts_, places_;
  std::vector<std::byte> aside_;
};

}  // namespace

void check_mpi(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  fail(ErrorKind::PeerLost, "{} failed: {}", what, std::string(text, static_cast<std::size_t>(length)));
}

std::shared_ptr<Transport> make_mpi_transport(bool native) {
  MPI_Comm copy = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &copy), "MPI_Comm_dup");
  return std::make_shared<MpiTransport>(copy, native);
}

std::shared_ptr<Transport> make_mpi_transport(std::span<const int> ranks, bool native) {
  MPI_Group world = MPI_GROUP_NULL, some = MPI_GROUP_NULL;
  MPI_Comm communicator = MPI_COMM_NULL;
  check_mpi(MPI_Comm_group(MPI_COMM_WORLD, &world), "MPI_Comm_group");
  check_mpi(MPI_Group_incl(world, static_cast<int>(ranks.size()), ranks.data(), &some), "MPI_Group_incl");
  check_mpi(MPI_Comm_create_group(MPI_COMM_WORLD, some, kTag, &communicator), "MPI_Comm_create_group");
  check_mpi(MPI_Group_free(&some), "MPI_Group_free");
  check_mpi(MPI_Group_free(&world), "MPI_Group_free");
  return std::make_shared<MpiTransport>(communicator, native);
}

bool mpi_reaches_cuda() {
#ifdef MPIX_CUDA_AWARE_SUPPORT
  return MPIX_Query_cuda_support() != 0;
#else
  return false;
#endif
}

}  // namespace plimsoll
