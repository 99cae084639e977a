#pragma once
// A mesh of ranks as threads of the test's process.

#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "launch/groups.hpp"
#include "runtime/core/error.hpp"

namespace plimsoll::test {

// What a rank puts over a transport between threads; on its own thread, collective over the ranks of the axis.
using OverLocal =
    std::function<std::shared_ptr<Transport>(int rank, const std::string& axis, std::shared_ptr<Transport> below)>;

// body(rank, groups) on a thread per rank. A rank that throws aborts the others; its exception comes out of here, not
// what they say of a lost peer, which may come first.
inline void on_mesh(const Mesh& mesh, const std::function<void(int, const Groups&)>& body, const OverLocal& over = {}) {
  std::mutex mutex;
  std::map<std::pair<std::string, std::vector<int>>, std::vector<std::shared_ptr<Transport>>> made;
  const auto transport = [&](const std::string& axis, const std::vector<int>& ranks, int rank) {
    const std::lock_guard lock(mutex);
    auto& all = made[{axis, ranks}];
    if (all.empty()) all = make_local_transports(static_cast<int>(ranks.size()));
    return all[static_cast<std::size_t>(std::find(ranks.begin(), ranks.end(), rank) - ranks.begin())];
  };
  std::exception_ptr first, lost;
  const auto work = [&](int rank) {
    Groups groups;
    try {
      groups = make_groups(mesh, rank, [&](const std::string& axis, const std::vector<int>& ranks) {
        auto local = transport(axis, ranks, rank);
        return Group(axis, over ? over(rank, axis, std::move(local)) : std::move(local));
      });
      body(rank, groups);
    } catch (const std::exception& error) {
      const auto* known = dynamic_cast<const Error*>(&error);
      const bool is_lost = known != nullptr && known->kind() == ErrorKind::PeerLost;
      {
        const std::lock_guard lock(mutex);
        std::exception_ptr& mine = is_lost ? lost : first;
        if (!mine) mine = std::current_exception();
      }
      for (const auto& [key, all] : made) {
        for (const auto& t : all) abort_local(*t);
      }
    }
  };
  std::vector<std::thread> threads;
  for (int r = 1; r < mesh.ranks(); ++r) threads.emplace_back(work, r);
  work(0);
  for (std::thread& t : threads) t.join();
  if (first || lost) std::rethrow_exception(first ? first : lost);
}

}  // namespace plimsoll::test
