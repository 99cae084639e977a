#pragma once
// The process as a rank: MPI when a launcher started it, otherwise one rank by itself.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/group.hpp"

namespace plimsoll {

// Puts a transport over that of MPI. Collective over its ranks.
using TransportOver = std::function<std::shared_ptr<Transport>(
    const std::string& axis, std::shared_ptr<Transport> below, std::shared_ptr<WatchedGroup> watch)>;

class MpiSession {
 public:
  // Initialises MPI when mpirun or srun started this process (it then needs MPI_THREAD_MULTIPLE, else Error(Device));
  // without a launcher MPI is left alone. One session per process.
  MpiSession();
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  int local_rank() const { return local_rank_; }  // on this host
  int local_size() const { return local_size_; }
  // All ranks as a group with a communicator of its own. Collective.
  Group world(const std::string& axis, bool native = false) const;
  // Some of the ranks as a group with a communicator of its own, by what `over` makes of it. Collective over them.
  Group group(const std::string& axis, const std::vector<int>& ranks, bool native = false,
              const TransportOver& over = {}) const;
  // Knows the calls in flight of all groups made above; not started.
  Watchdog& watchdog() const { return *watchdog_; }
  bool launched() const { return active_; }  // by mpirun or srun
  // The value of every rank in rank order, when all ranks call this within `seconds` of each other; otherwise empty.
  // For ranks that fail: the call never waits longer, and is made once, last before abort().
  std::vector<std::uint64_t> gather_failures(std::uint64_t mine, double seconds) const;
  // Ends all ranks with this code.
  void abort(int code) const;

 private:
  std::unique_ptr<Watchdog> watchdog_;
  bool active_ = false;
  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1;
};

std::string mpi_library_version();

}  // namespace plimsoll
