#pragma once
// How ranks divide elements that lie in a row.

#include <algorithm>
#include <cstdint>
#include <vector>

namespace plimsoll {

struct ElementRange {
  std::int64_t first = 0, count = 0;
};

// Rank r has elements [cuts[r], cuts[r + 1]), so there is one more of them than ranks: they rise from 0, and a rank may
// have nothing. Empty: every rank has as much as the others, as nearly as that can be.
using RankCuts = std::vector<std::int64_t>;

// What `rank` has of n elements; without cuts [n·rank/ranks, n·(rank + 1)/ranks).
inline ElementRange range_of_rank(std::int64_t n, int rank, int ranks, const RankCuts& cuts = {}) {
  const auto r = static_cast<std::size_t>(rank);
  const std::int64_t first = cuts.empty() ? n * rank / ranks : cuts[r];
  return {first, (cuts.empty() ? n * (rank + 1) / ranks : cuts[r + 1]) - first};
}

// One of several tensors that lie one after another, and that ranks gather or sum together.
struct JoinedPart {
  std::int64_t elements = 0;
  RankCuts cuts = {};
};

// The most that any of them has.
inline std::int64_t largest_range(std::int64_t n, int ranks, const RankCuts& cuts = {}) {
  if (cuts.empty()) return (n + ranks - 1) / ranks;
  std::int64_t most = 0;
  for (int r = 0; r < ranks; ++r) most = std::max(most, range_of_rank(n, r, ranks, cuts).count);
  return most;
}

}  // namespace plimsoll
