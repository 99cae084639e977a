#pragma once
// Ranks as threads of the test's process.

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "comm/group.hpp"

namespace plimsoll::test {

// body(transport) on a thread per rank. What a rank throws is its text; it aborts the others, as a failing process
// would.
inline std::vector<std::string> on_ranks_over(
    int ranks, const std::function<std::string(const std::shared_ptr<Transport>&)>& body) {
  const auto transports = make_local_transports(ranks);
  std::vector<std::string> faults(static_cast<std::size_t>(ranks));
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < faults.size(); ++r) {
    threads.emplace_back([&, r] {
      try {
        faults[r] = body(transports[r]);
      } catch (const std::exception& error) {
        faults[r] = error.what();
        abort_local(*transports[r]);
      }
    });
  }
  for (std::thread& t : threads) t.join();
  return faults;
}

// The same with a group over the transport.
inline std::vector<std::string> on_ranks(int ranks, const std::function<std::string(const Group&)>& body,
                                         const std::string& axis = "data") {
  return on_ranks_over(ranks, [&](const std::shared_ptr<Transport>& t) { return body(Group(axis, t)); });
}

}  // namespace plimsoll::test
