#pragma once
// Measures what messages and collectives over a group take, for the planners.

#include "comm/group.hpp"
#include "runtime/plan/link_table.hpp"

namespace plimsoll {

struct ProbeOptions {
  std::int64_t least_bytes = std::int64_t{1} << 10, largest_bytes = std::int64_t{256} << 20;  // doubling
  int repetitions = 7;            // of each size, after one that warms up
  double seconds_per_size = 1.0;  // about the most that one size of one operation takes; at least one repetition
};

// T(m) of one operation, m as LinkLine says. A repetition lasts as long as on its slowest rank, from a common start;
// the median counts, so every rank returns the same table. send_receive: the first half of the ranks sends to the
// second, one message per pair at a time; an odd rank stays out. Collective over the group, which has at least two
// ranks (otherwise Error(Internal)). Allocates its buffers (three times largest_bytes at most) and frees them.
LinkTable probe(const Group& group, LinkOperation operation, const ProbeOptions& options = {});

}  // namespace plimsoll
