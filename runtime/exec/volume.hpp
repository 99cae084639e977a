#pragma once
// What a rank sends, in elements: the formulas of the collectives, in one place (Thakur, Rabenseifner & Gropp 2005).

#include "runtime/exec/collectives.hpp"

namespace plimsoll {

// Of n ranks, `rank` owns the elements of m that range_of_rank() says: m/n where n divides m and nobody cut them
// otherwise.
//   reduce_scatter  m − own              (n − 1)/n · m      all but its own, each to its owner
//   all_gather      (n − 1) · own        (n − 1)/n · m      its own, to all others
//   all_reduce      the sum of both    2 (n − 1)/n · m
inline std::int64_t sent_elements(CollectiveKind kind, std::int64_t elements, int ranks, int rank,
                                  const RankCuts& cuts = {}) {
  const std::int64_t own = range_of_rank(elements, rank, ranks, cuts).count;
  const std::int64_t scattered = elements - own, gathered = (ranks - 1) * own;
  switch (kind) {
    case CollectiveKind::ReduceScatter: return scattered;
    case CollectiveKind::AllGather: return gathered;
    default: return scattered + gathered;
  }
}
inline std::int64_t sent_bytes(const CollectiveCall& call, int rank) {
  return sent_elements(call.kind, call.elements, call.ranks, rank, call.cuts) * dtype_bytes(call.dtype);
}

}  // namespace plimsoll
