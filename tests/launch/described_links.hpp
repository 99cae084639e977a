#pragma once
// Machines of which only the links differ, for tests of what is chosen by them.

#include "launch/programs.hpp"
#include "runtime/plan/cluster.hpp"

namespace plimsoll::test {

inline constexpr double kFlopsPerSecond = 1e8;

inline ClusterDescription cluster_of(double latency_s, double bytes_per_s, double overhead_s = 0) {
  ClusterDescription c;
  c.inside = c.between = {latency_s, bytes_per_s};
  c.device.kernel_overhead_s = overhead_s;
  c.device.matmul.fp32 = c.device.attention.fp32 = kFlopsPerSecond;
  return c;
}

// Messages of which each costs more than the work on a layer.
inline const ClusterDescription kLatent = cluster_of(2e-2, 1e9);

// A budget that everything fits.
inline bool always(const ProgramOptions&) { return true; }

}  // namespace plimsoll::test
