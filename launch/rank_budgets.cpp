#include "launch/rank_budgets.hpp"

#include <algorithm>
#include <limits>

namespace plimsoll {

RankBudgets::RankBudgets(std::vector<std::int64_t> by_rank)
    : least_(*std::min_element(by_rank.begin(), by_rank.end())), by_rank_(std::move(by_rank)) {}

std::int64_t RankBudgets::least_of(const std::vector<int>& ranks) const {
  if (by_rank_.empty()) return least_;
  std::int64_t least = of(ranks.front());
  for (const int rank : ranks) least = std::min(least, of(rank));
  return least;
}

std::vector<std::int64_t> RankBudgets::by_shard(const Mesh& mesh) const {
  std::vector<std::int64_t> least(static_cast<std::size_t>(mesh.shards),
                                  by_rank_.empty() ? least_ : std::numeric_limits<std::int64_t>::max());
  for (std::size_t rank = 0; rank < by_rank_.size(); ++rank) {
    std::int64_t& place = least[static_cast<std::size_t>(coordinates(mesh, static_cast<int>(rank)).data % mesh.shards)];
    place = std::min(place, by_rank_[rank]);
  }
  return least;
}

bool RankBudgets::differ() const {
  return std::any_of(by_rank_.begin(), by_rank_.end(), [this](std::int64_t bytes) { return bytes != least_; });
}

}  // namespace plimsoll
