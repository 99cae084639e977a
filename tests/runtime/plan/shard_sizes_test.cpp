#include "runtime/plan/shard_sizes.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

MessageSeconds over(const LinkLine& line) {
  return [line](std::int64_t bytes) { return line.seconds(static_cast<double>(bytes)); };
}

TEST(EfficientBytes, IsWhereTheShareOfTheBandwidthIsReached) {
  const LinkLine line{100e-6, 1e9};
  EXPECT_EQ(efficient_bytes(line, 0.9), 900000) << "nine times the product of bandwidth and latency";
  for (const double share : {0.1, 0.5, 0.9, 0.99}) {
    const auto used = [&](double bytes) { return bytes / line.bytes_per_s / line.seconds(bytes); };
    EXPECT_NEAR(used(static_cast<double>(efficient_bytes(line, share))), share, 1e-4) << "to half a byte";
  }
  EXPECT_EQ(efficient_bytes({0, 1e9}, 0.9), 0) << "without latency any size will do";
  EXPECT_THROW(efficient_bytes(line, 1), Error);
}

// Each further rank asks for larger units.
const std::vector<ShardGroup> kGroups{{1, 0}, {2, 1000}, {4, 5000}, {8, 20000}};

TEST(ShardGroups, AreAsLargeAsTheLinksAllow) {
  const auto any = [](int) { return true; };
  for (const auto& [unit, ranks] :
       {std::pair{std::int64_t{1}, 1}, {999, 1}, {1000, 2}, {4999, 2}, {5000, 4}, {19999, 4}, {20000, 8}, {90000, 8}}) {
    const ShardGroupChoice choice = choose_shard_group(kGroups, unit, any);
    EXPECT_EQ(choice.ranks, ranks) << unit;
    EXPECT_EQ(choice.by_links, ranks) << unit;
    EXPECT_EQ(choice.unit_bytes, unit);
  }
  // Links of a large group may be better than those of a small one.
  EXPECT_EQ(choose_shard_group({{1, 0}, {2, 9000}, {4, 5000}}, 6000, any).ranks, 4);
}

TEST(ShardGroups, AreLargerWhereMemoryNeedsIt) {
  for (const int least : {1, 2, 4, 8, 16}) {
    const ShardGroupChoice choice = choose_shard_group(kGroups, 1500, [&](int ranks) { return ranks >= least; });
    EXPECT_EQ(choice.by_links, 2);
    EXPECT_EQ(choice.ranks, least == 16 ? 8 : std::max(2, least)) << "where nothing fits, all of them";
  }
  EXPECT_THROW(choose_shard_group({}, 1, [](int) { return true; }), Error);
}

TEST(OverlapPieces, TheBestOfTheThreeAndOfTheWhole) {
  const LinkLine line{1e-4, 1e9};
  std::vector<std::int64_t> allowed(64);
  std::iota(allowed.begin(), allowed.end(), 1);
  const PieceChoice choice = choose_overlap_pieces(10e-3, 0, 10000000, line, over(line), allowed);
  const auto seconds = [&](double k) {
    const double message = line.seconds(std::ceil(1e7 / k));
    return 10e-3 / k + (k - 1) * std::max(10e-3 / k, message) + message;
  };
  double least = 1e300;
  for (int k = 1; k <= 64; ++k) least = std::min(least, seconds(k));
  EXPECT_LE(choice.seconds, 1.05 * least);
  EXPECT_NEAR(choice.seconds, seconds(static_cast<double>(choice.pieces)), 1e-12);
  EXPECT_NEAR(choice.whole_s, 10e-3 + 10.1e-3, 1e-12);
  // Only what is allowed is chosen, and cutting that gains nothing is left.
  const std::vector<std::int64_t> few{1, 2, 4};
  EXPECT_EQ(choose_overlap_pieces(10e-3, 0, 10000000, line, over(line), few).pieces, 4);
  EXPECT_EQ(choose_overlap_pieces(10e-3, 1, 10000000, line, over(line), few).pieces, 1) << "pieces cost a second each";
  EXPECT_EQ(choose_overlap_pieces(0, 0, 10000000, line, over(line), few).pieces, 1) << "nothing to hide behind";
}

// Every way of giving `total` to the ranks within their limits.
double best_split(std::int64_t total, std::span<const RankSpeed> ranks, std::int64_t least) {
  double best = 1e300;
  const std::function<void(std::size_t, std::int64_t, double)> give = [&](std::size_t r, std::int64_t left,
                                                                          double worst) {
    if (r == ranks.size()) {
      if (left == 0) best = std::min(best, worst);
      return;
    }
    for (std::int64_t n = least; n <= std::min(left, ranks[r].most_batches); ++n)
      give(r + 1, left - n, std::max(worst, static_cast<double>(n) * ranks[r].micro_batch_s));
  };
  give(0, total, 0);
  return best;
}

TEST(BatchShares, TheSlowestRankIsAsFastAsItCanBe) {
  std::mt19937 random(4);
  std::uniform_real_distribution<double> speed(0.5, 4);
  std::uniform_int_distribution<std::int64_t> most(1, 9), count(3, 14);
  int feasible = 0;
  for (int i = 0; i < 200; ++i) {
    std::vector<RankSpeed> ranks;
    for (int r = 0; r < 3; ++r) ranks.push_back({speed(random), most(random)});
    const std::int64_t total = count(random);
    const auto shares = share_micro_batches(total, ranks);
    const double best = best_split(total, ranks, 1);
    ASSERT_EQ(shares.has_value(), best < 1e300);
    if (!shares) continue;
    ++feasible;
    EXPECT_NEAR(shares->seconds, best, 1e-12);
    EXPECT_EQ(std::accumulate(shares->micro_batches.begin(), shares->micro_batches.end(), std::int64_t{0}), total);
  }
  EXPECT_GT(feasible, 100);
  // One rank half as fast: 4 and 8 of 12, and the even share would take half as long again.
  const auto shares = share_micro_batches(12, std::vector<RankSpeed>{{2, 100}, {1, 100}});
  ASSERT_TRUE(shares);
  EXPECT_EQ(shares->micro_batches, (std::vector<std::int64_t>{4, 8}));
  EXPECT_DOUBLE_EQ(shares->even_s, 12);
  EXPECT_DOUBLE_EQ(shares->gain_s(), 4);
}

TEST(StateShares, InProportionToWhatIsFree) {
  const std::vector<std::int64_t> free{3000, 1000};
  EXPECT_EQ(share_state(400, 4, free), (std::vector<std::int64_t>{300, 100}));
  EXPECT_EQ(share_state(1000, 4, free), (std::vector<std::int64_t>{750, 250})) << "exactly all that is free";
  EXPECT_EQ(share_state(1001, 4, free), std::nullopt);
  EXPECT_EQ(share_state(0, 4, free), (std::vector<std::int64_t>{0, 0}));
  EXPECT_EQ(share_state(5, 4, std::vector<std::int64_t>{-5, 100}), (std::vector<std::int64_t>{0, 5}));
}

TEST(StateShares, WholeUnitsWithinEveryLimit) {
  std::mt19937 random(5);
  std::uniform_int_distribution<std::int64_t> bytes(0, 100000), elements(1, 40000);
  int given = 0;
  for (int i = 0; i < 300; ++i) {
    std::vector<std::int64_t> free;
    for (int r = 0; r < 5; ++r) free.push_back(bytes(random));
    const std::int64_t n = elements(random);
    const auto shares = share_state(n, 4, free, 16);
    if (!shares) continue;
    ++given;
    EXPECT_EQ(std::accumulate(shares->begin(), shares->end(), std::int64_t{0}), n);
    int odd = 0;
    for (std::size_t r = 0; r < free.size(); ++r) {
      EXPECT_LE((*shares)[r] * 4, free[r]);
      odd += (*shares)[r] % 16 != 0 ? 1 : 0;
    }
    EXPECT_LE(odd, 1);
  }
  EXPECT_GT(given, 200);
}

}  // namespace
}  // namespace plimsoll
