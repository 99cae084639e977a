#include "launch/bootstrap.hpp"

#include <mpi.h>

#include <chrono>
#include <cstdlib>
#include <exception>
#include <numeric>
#include <thread>

#include "comm/mpi_transport.hpp"

namespace plimsoll {
namespace {

// A communicator for failures alone: no other message can be taken for one of theirs.
MPI_Comm failures = MPI_COMM_NULL;
// What an allgather that was given up may still write to.
std::uint64_t failure = 0;
std::vector<std::uint64_t> failures_of_ranks;

bool has_launcher() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

}  // namespace

MpiSession::MpiSession() {
  if (!has_launcher()) {
    watchdog_ = std::make_unique<Watchdog>(0, 1, nullptr);
    return;
  }
  int provided = 0;
  const int code = MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided);
  require(code == MPI_SUCCESS, ErrorKind::Device, "MPI_Init_thread failed with code {}", code);
  active_ = true;
  require(provided == MPI_THREAD_MULTIPLE, ErrorKind::Device, "this MPI does not support MPI_THREAD_MULTIPLE");
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI_Comm_size");
  MPI_Comm host = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &host),
            "MPI_Comm_split_type");
  check_mpi(MPI_Comm_rank(host, &local_rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(host, &local_size_), "MPI_Comm_size");
  check_mpi(MPI_Comm_free(&host), "MPI_Comm_free");
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &failures), "MPI_Comm_dup");
  watchdog_ = std::make_unique<Watchdog>(rank_, size_, make_mpi_stall_channel());
}

// MPI_Finalize waits for all ranks: after a failure, where others may never come, the process leaves by abort().
MpiSession::~MpiSession() {
  watchdog_.reset();
  if (active_ && std::uncaught_exceptions() == 0) MPI_Finalize();
}

Group MpiSession::world(const std::string& axis, bool native) const {
  if (!active_ || size_ == 1) return {axis, make_self_transport()};
  std::vector<int> all(static_cast<std::size_t>(size_));
  std::iota(all.begin(), all.end(), 0);
  return {axis, make_mpi_transport(native), watchdog_->watch(axis, std::move(all))};
}

Group MpiSession::group(const std::string& axis, const std::vector<int>& ranks, bool native,
                        const TransportOver& over) const {
  auto transport = make_mpi_transport(ranks, native);
  auto watch = watchdog_->watch(axis, ranks);
  if (over) transport = over(axis, std::move(transport), watch);
  return {axis, std::move(transport), std::move(watch)};
}

std::vector<std::uint64_t> MpiSession::gather_failures(std::uint64_t mine, double seconds) const {
  if (!active_ || failures == MPI_COMM_NULL) return {mine};
  failure = mine;
  failures_of_ranks.resize(static_cast<std::size_t>(size_));
  MPI_Request request = MPI_REQUEST_NULL;
  if (MPI_Iallgather(&failure, 1, MPI_UINT64_T, failures_of_ranks.data(), 1, MPI_UINT64_T, failures, &request) !=
      MPI_SUCCESS)
    return {};
  const auto begin = std::chrono::steady_clock::now();
  while (std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() < seconds) {
    int done = 0;
    if (MPI_Test(&request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) return {};
    if (done != 0) return failures_of_ranks;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return {};
}

void MpiSession::abort(int code) const {
  if (active_ && size_ > 1) MPI_Abort(MPI_COMM_WORLD, code);
}

std::string mpi_library_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  return {text};  // the length counts the NUL in some versions
}

}  // namespace plimsoll
