// All-reduce of f32: our own beside MPI's, size by size, one JSON line each.
//   mpirun -n RANKS comm_bench [repetitions]
// The two take turns; a repetition counts as long as its slowest rank, and the median counts.

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <vector>

#include "launch/bootstrap.hpp"

namespace plimsoll {
namespace {

double median(std::vector<double> all) {
  const auto middle = all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2);
  std::nth_element(all.begin(), middle, all.end());
  return *middle;
}

double all_reduce_ms(const Group& control, const Group& group, View x, std::byte* scratch) {
  control.barrier();
  const auto begin = std::chrono::steady_clock::now();
  group.all_reduce(x, ReduceOp::Sum, scratch);
  return control.max(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
}

void run(const MpiSession& session, int repetitions) {
  const Group control = session.world("control"), own = session.world("own"), native = session.world("mpi", true);
  std::vector<std::byte> scratch(static_cast<std::size_t>(reduce_scratch_bytes(session.size())));
  for (std::int64_t bytes = 1 << 10; bytes <= 64 << 20; bytes *= 4) {
    std::vector<float> values(static_cast<std::size_t>(bytes / 4), 0.0F);
    const View x{values.data(), {{bytes / 4}, DType::f32}};
    std::vector<double> own_ms, mpi_ms;
    for (int i = 0; i <= repetitions; ++i) {
      const double a = all_reduce_ms(control, own, x, scratch.data());
      const double b = all_reduce_ms(control, native, x, scratch.data());
      if (i == 0) continue;  // warms up
      own_ms.push_back(a);
      mpi_ms.push_back(b);
    }
    const double a = median(own_ms), b = median(mpi_ms);
    if (session.rank() != 0) continue;
    fmt::print(
        "{{\"bench\": \"all_reduce\", \"ranks\": {}, \"bytes\": {}, \"own_ms\": {:.4f}, \"mpi_ms\": {:.4f}, "
        "\"mpi_over_own\": {:.3f}}}\n",
        session.size(), bytes, a, b, b / a);
  }
}

}  // namespace
}  // namespace plimsoll

int main(int argc, char** argv) {
  using namespace plimsoll;
  const MpiSession session;
  try {
    run(session, argc > 1 ? std::max(1, std::atoi(argv[1])) : 15);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "comm_bench, rank {}: {}\n", session.rank(), error.what());
    session.abort(1);
    return 1;
  }
}
