#pragma once
// Measures what messages and collectives over a group take, for the planners.

#include <functional>
#include <limits>

#include "comm/group.hpp"
#include "runtime/plan/link_table.hpp"

namespace plimsoll {

// A repetition of a collective without work before it: as many of them, and a share of the time.
inline constexpr int kCollectivesInARow = 4;

// Where the tensors lie: in the memory of a device, with the stream that the collectives are tasks of; null: in the
// host's.
struct ProbePlace {
  Device* device = nullptr;
  Stream* stream = nullptr;
};

struct ProbeOptions {
  std::int64_t least_bytes = std::int64_t{1} << 10, largest_bytes = std::int64_t{256} << 20;  // doubling
  int repetitions = 7;            // of each size, after one that warms up
  double seconds_per_size = 1.0;  // about the most that one size of one operation takes; at least one repetition
  // The table ends at the first size that takes longer: beyond it, bandwidth alone counts.
  double longest_s = std::numeric_limits<double>::infinity();
  // What every rank does before each operation, as in a step; null: operations follow one another. What an operation
  // takes is then how long the ranks need for both, less the work alone on the slowest of them: waiting for one another
  // after work, which takes them a little longer now and then, is part of it.
  std::function<void()> work = nullptr;
  ProbePlace on = {};
};

// T(m) of one operation, m as LinkLine says. A repetition lasts as long as on its slowest rank, from a common start;
// the median counts, so every rank returns the same table. send_receive: the first half of the ranks sends to the
// second, one message per pair at a time; an odd rank stays out. Collective over the group, which has at least two
// ranks (otherwise Error(Internal)). Allocates its buffers (three times largest_bytes at most) and frees them. Those of
// a device have been through a collective when its stream is idle.
LinkTable probe(const Group& group, LinkOperation operation, const ProbeOptions& options = {});

// Of work that each rank does on this thread, in units of `work` (a millisecond or less), while another one (the
// stream of `on`) runs operations of `bytes` for at least a tenth of a second: the share, in [0, 1), that the rank
// loses to them which loses most; the median of a few. Collective over the group, as above.
double probe_slowdown(const Group& group, LinkOperation operation, std::int64_t bytes,
                      const std::function<void()>& work, const ProbePlace& on = {});

}  // namespace plimsoll
