#pragma once
// What a rank sends, in elements: the formulas of the collectives, in one place (Thakur, Rabenseifner & Gropp 2005).

#include "runtime/exec/collectives.hpp"

namespace plimsoll {

// Of n ranks, `rank` owns elements [m·rank/n, m·(rank + 1)/n) of m: m/n where n divides m.
//   reduce_scatter  m − own              (n − 1)/n · m      all but its own, each to its owner
//   all_gather      (n − 1) · own        (n − 1)/n · m      its own, to all others
//   all_reduce      the sum of both    2 (n − 1)/n · m
constexpr std::int64_t sent_elements(CollectiveKind kind, std::int64_t elements, int ranks, int rank) {
  const std::int64_t own = elements * (rank + 1) / ranks - elements * rank / ranks;
  const std::int64_t scattered = elements - own, gathered = (ranks - 1) * own;
  switch (kind) {
    case CollectiveKind::ReduceScatter: return scattered;
    case CollectiveKind::AllGather: return gathered;
    default: return scattered + gathered;
  }
}
inline std::int64_t sent_bytes(const CollectiveCall& call, int rank) {
  return sent_elements(call.kind, call.elements, call.ranks, rank) * dtype_bytes(call.dtype);
}

}  // namespace plimsoll
