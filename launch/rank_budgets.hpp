#pragma once
// memory.budget of every rank: the bytes that it may have, or 0 where nobody says.

#include <cstdint>
#include <vector>

#include "parallel/mesh.hpp"

namespace plimsoll {

class RankBudgets {
 public:
  RankBudgets(std::int64_t everywhere = 0) : least_(everywhere) {}  // NOLINT: a number is that of all ranks
  explicit RankBudgets(std::vector<std::int64_t> by_rank);

  std::int64_t of(int rank) const { return by_rank_.empty() ? least_ : by_rank_[static_cast<std::size_t>(rank)]; }
  std::int64_t least() const { return least_; }
  std::int64_t least_of(const std::vector<int>& ranks) const;
  // Of the ranks that have the same place on the shard axis the least, by place.
  std::vector<std::int64_t> by_shard(const Mesh& mesh) const;
  bool differ() const;

 private:
  std::int64_t least_;
  std::vector<std::int64_t> by_rank_;  // empty: all have least_
};

}  // namespace plimsoll
