#include "launch/bootstrap.hpp"

#include <mpi.h>

#include <cstdlib>
#include <exception>

#include "comm/mpi_transport.hpp"

namespace plimsoll {
namespace {

bool launched() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

}  // namespace

MpiSession::MpiSession() {
  if (!launched()) return;
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
}

// MPI_Finalize waits for all ranks: after a failure, where others may never come, the process leaves by abort().
MpiSession::~MpiSession() {
  if (active_ && std::uncaught_exceptions() == 0) MPI_Finalize();
}

Group MpiSession::world(const std::string& axis, bool native) const {
  return {axis, active_ && size_ > 1 ? make_mpi_transport() : make_self_transport(), native};
}

Group MpiSession::group(const std::string& axis, const std::vector<int>& ranks, bool native) const {
  return {axis, make_mpi_transport(ranks), native};
}

void MpiSession::abort(int code) const {
  if (active_ && size_ > 1) MPI_Abort(MPI_COMM_WORLD, code);
}

std::string mpi_library_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  return {text, static_cast<std::size_t>(length)};
}

}  // namespace plimsoll
