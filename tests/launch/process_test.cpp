// Which cores are a rank's own, and when ranks must give way to each other.

#include "launch/process.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace plimsoll {
namespace {

// Cores first .. last of a host.
CoreMask cores(std::size_t first, std::size_t last) {
  CoreMask mask{};
  for (std::size_t core = first; core <= last; ++core) mask[core / 64] |= std::uint64_t{1} << core % 64;
  return mask;
}

std::vector<int> threads(const std::vector<CoreMask>& masks) {
  std::vector<int> all;
  for (std::size_t rank = 0; rank < masks.size(); ++rank) all.push_back(threads_of(share_of_cores(masks, rank)));
  return all;
}

TEST(Process, CoresThatTheLauncherHasDividedAreNotDividedAgain) {
  EXPECT_EQ(threads({cores(0, 3), cores(4, 7), cores(8, 11), cores(12, 15)}), (std::vector<int>{4, 4, 4, 4}));
  EXPECT_EQ(threads({cores(0, 0), cores(1, 1)}), (std::vector<int>{1, 1}));
  EXPECT_EQ(threads({cores(0, 95), cores(96, 191)}), (std::vector<int>{96, 96}));
}

TEST(Process, RanksThatMayRunOnTheSameCoresShareThem) {
  EXPECT_EQ(threads(std::vector(4, cores(0, 15))), (std::vector<int>{4, 4, 4, 4}));
  EXPECT_EQ(threads(std::vector(3, cores(0, 2))), (std::vector<int>{1, 1, 1}));
  EXPECT_EQ(threads(std::vector(4, cores(0, 1))), (std::vector<int>{1, 1, 1, 1}));
  // Two ranks bound to each of two sockets.
  EXPECT_EQ(threads({cores(0, 7), cores(0, 7), cores(8, 15), cores(8, 15)}), (std::vector<int>{4, 4, 4, 4}));
  // A core that one of them shares.
  EXPECT_EQ(threads({cores(0, 3), cores(0, 1)}), (std::vector<int>{3, 1}));
}

TEST(Process, MoreRanksThanCoresHavePartsOfThem) {
  EXPECT_DOUBLE_EQ(share_of_cores(std::vector(4, cores(0, 1)), 3), 0.5);
  EXPECT_DOUBLE_EQ(share_of_cores(std::vector{cores(0, 3), cores(0, 1)}, 0), 3);
}

TEST(Process, BoundRanksAreNotTooMany) {
  EXPECT_FALSE(more_ranks_than_cores(1, 2, 2));
  EXPECT_FALSE(more_ranks_than_cores(2, 1, 2));    // each bound to a core
  EXPECT_FALSE(more_ranks_than_cores(16, 4, 64));  // each bound to four
  EXPECT_FALSE(more_ranks_than_cores(2, 2, 1));    // a launcher that is itself bound
  EXPECT_TRUE(more_ranks_than_cores(4, 2, 2));
  EXPECT_TRUE(more_ranks_than_cores(4, 1, 2));
}

TEST(Process, TheMaskHasTheUsableCores) {
  EXPECT_EQ(share_of_cores(std::vector<CoreMask>{core_mask()}, 0), usable_cores());
}

}  // namespace
}  // namespace plimsoll
