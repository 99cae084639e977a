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

// MPI's own sums: of floats in an order of its own, nearly ours.
std::string check_native_sums(const SuiteGroup& g) {
  constexpr std::int64_t kElements = 10007;
  const auto nearly = [](const char* what, Guarded<double>& found, std::int64_t first, int ranks) -> std::string {
    for (std::int64_t i = 0; i < found.size(); ++i) {
      if (std::abs(found[i] - suite_reduced<double>(ranks, first + i, ReduceOp::Sum)) > 1e-9)
        return fmt::format("{}: element {} is {}\n", what, i, found[i]);
    }
    return "";
  };
  std::vector<std::byte> scratch(static_cast<std::size_t>(reduce_scratch_bytes(g.size())));
  Guarded<double> x(kElements), in(kElements * g.size()), out(kElements);
  x.fill(g.rank());
  g.all_reduce(x.view(), ReduceOp::Sum, scratch.data());
  in.fill(g.rank());
  g.reduce_scatter(in.view(), out.view(), ReduceOp::Sum, scratch.data());
  return nearly("native all_reduce", x, 0, g.size()) +
         nearly("native reduce_scatter", out, kElements * g.rank(), g.size());
}

// The result lies in what is read, which MPI does not allow by itself.
std::string check_native_in_place(const SuiteGroup& g) {
  constexpr std::int64_t kElements = 1009;
  std::vector<std::byte> scratch(static_cast<std::size_t>(reduce_scratch_bytes(g.size())));
  Guarded<std::int64_t> x(kElements * g.size());
  x.fill(g.rank());
  const View mine = x.view(kElements * g.rank(), kElements);
  g.reduce_scatter(x.view(), mine, ReduceOp::Sum, scratch.data());
  return x.compare("native reduce_scatter in place", [&](std::int64_t i) {
    return i / kElements == g.rank() ? suite_reduced<std::int64_t>(g.size(), i, ReduceOp::Sum)
                                     : suite_value<std::int64_t>(g.rank(), i);
  });
}

// MPI's own collectives: integers and what is only moved exactly; what it does not have falls back to ours.
std::string check_native(const SuiteGroup& g) {
  return check_native_sums(g) + check_native_in_place(g) + check_dtype<std::int32_t>(g) + check_dtype<std::int64_t>(g) +
         check_moves<float>(g, 10007) + check_moves<f16>(g, 10007) + check_rounded_once<bf16>(g) + check_nan(g);
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
