// mpi_collectives: the suite of tests/comm/collectives_suite.hpp over MPI. Every rank takes part in reporting each
// case, so that a fault of one rank is told and never becomes a hang of the others. Exits 1 when a case fails on any
// rank.

#include <atomic>
#include <cstdio>
#include <thread>

#include "launch/bootstrap.hpp"
#include "runtime/device/device.hpp"
#include "tests/comm/collectives_suite.hpp"

namespace plimsoll {
namespace {

// MPI's own sum: integers exactly, floats nearly. The maximum falls back to ours, NaN included.
std::string check_native(const Group& g) {
  std::string faults = check_nan(g);
  std::vector<std::byte> scratch(static_cast<std::size_t>(reduce_scratch_bytes(g.size())));
  Guarded<std::int64_t> integers(10007);
  integers.fill(g.rank());
  g.all_reduce(integers.view(), ReduceOp::Sum, scratch.data());
  faults += integers.compare("native sum",
                             [&](std::int64_t i) { return suite_reduced<std::int64_t>(g.size(), i, ReduceOp::Sum); });
  Guarded<double> floats(10007);
  floats.fill(g.rank());
  g.all_reduce(floats.view(), ReduceOp::Sum, scratch.data());
  for (std::int64_t i = 0; i < floats.size(); ++i) {
    const double expected = suite_reduced<double>(g.size(), i, ReduceOp::Sum);
    if (std::abs(floats[i] - expected) > 1e-9)
      return faults + fmt::format("native sum: element {} is {}\n", i, floats[i]);
  }
  return faults;
}

// Rank 0 destroys a stream that waits for a message; rank 1 sends it only afterwards.
std::string check_destroyed_stream(const Group& g, const Group& other) {
  if (g.size() == 1) return "";
  static Guarded<float> x(4);  // MPI may write to it after the wait was left
  struct Wait {
    const Group* group;
    std::atomic<bool> begun = false, lost = false;
  } wait{&other};
  if (g.rank() == 0) {
    const auto device = make_cpu_device(1);
    const auto stream = device->make_stream(StreamKind::Communication);
    const auto run = [](void* argument) {
      auto& w = *static_cast<Wait*>(argument);
      w.begun = true;
      try {
        w.group->receive(x.view(), 1);
      } catch (const Error& error) {
        w.lost = error.kind() == ErrorKind::PeerLost;
        throw;
      }
    };
    stream->launch({run, &wait});
    while (!wait.begun) std::this_thread::yield();
  }
  g.barrier();
  if (g.rank() == 1) other.send(x.view(), 0);
  return g.rank() == 0 && !wait.lost ? "the stream's wait did not end with PeerLost\n" : "";
}

// True when no rank has a fault. Collective; faults come out one rank after the other.
bool report(const Group& control, const char* name, const std::string& faults) {
  for (int r = 0; r < control.size(); ++r) {
    if (r == control.rank() && !faults.empty()) std::fprintf(stderr, "%s, rank %d: %s", name, r, faults.c_str());
    control.barrier();
  }
  const bool good = control.sum(faults.empty() ? 0 : 1) == 0;
  if (control.rank() == 0) std::printf("%-24s %s\n", name, good ? "ok" : "FAILED");
  return good;
}

int run(const MpiSession& session) {
  const Group control = session.world("control"), group = session.world("data"), native = session.world("native", true);
  const Group lonely = session.world("lonely");
  bool good = true;
  for (const SuiteCase& c : kCollectiveSuite) good = report(control, c.name, c.check(group)) && good;
  good = report(control, "native", check_native(native)) && good;
  good = report(control, "destroyed_stream", check_destroyed_stream(control, lonely)) && good;
  return good ? 0 : 1;
}

}  // namespace
}  // namespace plimsoll

int main() {
  using namespace plimsoll;
  const MpiSession session;
  try {
    return run(session);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mpi_collectives, rank %d: %s\n", session.rank(), error.what());
    session.abort(1);
    return 1;
  }
}
