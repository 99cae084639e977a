#pragma once
// How large a message is, and into which parts work and state are cut, from what links, ranks and memory are like
// (planner.md, section 3). Pure functions, so that all ranks decide alike; each answer says what it takes.
// A link is T(m) = α + m/B (LinkLine: latency and bandwidth).

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "runtime/plan/bucket_sizes.hpp"
#include "runtime/plan/link_table.hpp"

namespace plimsoll {

// The smallest message that uses the share `efficiency`, in [0, 1), of the bandwidth: (m/B) / (α + m/B) >= η from
// m = η/(1-η)·αB on. For 90 % that is nine times the product of bandwidth and latency.
std::int64_t efficient_bytes(const LinkLine& line, double efficiency);

// Neighbours among which state may be divided, and the least unit that keeps the bandwidth of their link when it is
// scattered and gathered in shards (efficient_bytes(); 0: any).
struct ShardGroup {
  int ranks = 1;
  std::int64_t least_bytes = 0;
};

struct ShardGroupChoice {
  int ranks = 1;
  int by_links = 1;             // what links ask for; fewer than `ranks`: memory needs more
  std::int64_t unit_bytes = 0;  // of the state that is divided
  std::vector<ShardGroup> groups;
};

// clamp(what links ask for, memory): the largest group whose shards of a unit are no smaller than what keeps the
// bandwidth, or the smallest larger one that fits; where none fits, the largest. `groups`: at least one, rising.
ShardGroupChoice choose_shard_group(std::vector<ShardGroup> groups, std::int64_t unit_bytes,
                                    const std::function<bool(int ranks)>& fits);

struct PieceChoice {
  std::int64_t pieces = 1;
  double seconds = 0;  // in so many pieces
  double whole_s = 0;  // in one
  double gain_s() const { return whole_s - seconds; }
};

// Work of Tc seconds and a message of m bytes that are both cut into k pieces; the message of a piece goes beside the
// work on the next one, and every piece of work costs `overhead_s` more:
//   Tc/k + o + (k-1)·max(Tc/k + o, T(m/k)) + T(m/k)
// It is least near k* = √(min(Tc, Tm)/α'), α' what one more piece costs, max(α, o). Looked at, with `seconds`: the
// numbers of `allowed` (rising, from 1 on) on both sides of k*/2, k* and 2k*, and 1.
PieceChoice choose_overlap_pieces(double compute_s, double overhead_s, std::int64_t bytes, const LinkLine& line,
                                  const MessageSeconds& seconds, std::span<const std::int64_t> allowed);

struct RankSpeed {
  double micro_batch_s = 0;       // forward and backward, > 0
  std::int64_t most_batches = 0;  // that its budget allows
};

struct BatchShares {
  std::vector<std::int64_t> micro_batches;  // by rank
  double seconds = 0;                       // of the rank that is done last
  double even_s = 0;                        // the same with shares as equal as they can be, whatever they need
  double gain_s() const { return even_s - seconds; }
};

// `total` micro-batches for ranks of different speed, at least `least` for each: whoever is done last is done as early
// as possible. nullopt: no shares are within the limits.
std::optional<BatchShares> share_micro_batches(std::int64_t total, std::span<const RankSpeed> ranks,
                                               std::int64_t least = 1);

// Elements of state for each rank, in proportion to the bytes that are free on it, in whole units of `unit` elements
// but for the last one. nullopt: they do not fit.
std::optional<std::vector<std::int64_t>> share_state(std::int64_t elements, std::int64_t bytes_per_element,
                                                     std::span<const std::int64_t> free_bytes, std::int64_t unit = 1);

}  // namespace plimsoll
