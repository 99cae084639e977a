#include "runtime/data/order.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

namespace plimsoll {
namespace {

std::vector<std::int64_t> permuted(std::int64_t size, std::uint64_t seed, std::uint64_t source, std::uint64_t epoch) {
  const KeyedPermutation order(size, seed, source, epoch);
  std::vector<std::int64_t> values;
  for (std::int64_t i = 0; i < size; ++i) values.push_back(order(i));
  return values;
}

TEST(Order, IsAPermutationOfEverySize) {
  for (std::int64_t size = 1; size < 300; ++size) {
    auto values = permuted(size, 3, 0, static_cast<std::uint64_t>(size));
    std::ranges::sort(values);
    for (std::int64_t i = 0; i < size; ++i) ASSERT_EQ(values[static_cast<std::size_t>(i)], i) << "size " << size;
  }
}

TEST(Order, DependsOnSeedSourceAndEpoch) {
  const auto base = permuted(1000, 1, 0, 0);
  EXPECT_EQ(base, permuted(1000, 1, 0, 0));
  for (const auto& other : {permuted(1000, 2, 0, 0), permuted(1000, 1, 1, 0), permuted(1000, 1, 0, 1),
                            permuted(1000, 1ULL << 40, 0, 0), permuted(1000, 1, 0, 1ULL << 40)}) {
    int same = 0;
    for (std::size_t i = 0; i < base.size(); ++i) same += base[i] == other[i] ? 1 : 0;
    EXPECT_LT(same, 12) << "two random permutations share one place on average";
  }
}

// The bits of the order are part of what a resumed run relies on: they must not change between versions.
TEST(Order, IsFrozen) {
  EXPECT_EQ(permuted(8, 1, 0, 0), (std::vector<std::int64_t>{0, 1, 3, 7, 2, 6, 5, 4}));
  const KeyedPermutation large((std::int64_t{1} << 40) + 7, 1, 0, 0);
  EXPECT_EQ(large(0), 243375017765);
}

// Chi-square of (position block, value block) counts, and the serial correlation: a shuffle, not a shift.
TEST(Order, LooksRandom) {
  constexpr std::int64_t kSize = 40000;
  constexpr std::size_t kBlocks = 20;
  const auto values = permuted(kSize, 5, 0, 0);
  std::vector<double> counts(kBlocks * kBlocks, 0);
  double correlation = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    counts[i * kBlocks / kSize * kBlocks + static_cast<std::size_t>(values[i]) * kBlocks / kSize] += 1;
    const double mean = (kSize - 1) / 2.0;
    if (i > 0) correlation += (static_cast<double>(values[i - 1]) - mean) * (static_cast<double>(values[i]) - mean);
  }
  double chi = 0;
  for (const double count : counts) chi += (count - 100) * (count - 100) / 100;
  EXPECT_NEAR(chi, 361, 6 * std::sqrt(2 * 361.0));  // 19 × 19 degrees of freedom
  EXPECT_LT(std::abs(correlation / (kSize * (double{kSize} * kSize) / 12)), 6 / std::sqrt(double{kSize}));
}

TEST(Order, HugeSizes) {
  for (const std::int64_t size : {std::int64_t{1} << 32, (std::int64_t{1} << 40) + 1, (std::int64_t{1} << 62) + 1}) {
    const KeyedPermutation order(size, 1, 2, 3);
    std::set<std::int64_t> seen;
    for (std::int64_t i = 0; i < 2000; ++i) {
      const std::int64_t value = order(size - 1 - i);
      ASSERT_TRUE(value >= 0 && value < size);
      seen.insert(value);
    }
    EXPECT_EQ(seen.size(), 2000U);
  }
}

TEST(Order, SharesAddUp) {
  EXPECT_EQ(proportional_shares(10, std::vector<double>{1, 1, 1}), (std::vector<std::int64_t>{4, 3, 3}));
  EXPECT_EQ(proportional_shares(100, std::vector<double>{0.7, 0.2, 0.1}), (std::vector<std::int64_t>{70, 20, 10}));
  EXPECT_EQ(proportional_shares(5, std::vector<double>{42}), (std::vector<std::int64_t>{5}));
  const std::int64_t huge = (std::int64_t{1} << 60) + 12345;
  const auto shares = proportional_shares(huge, std::vector<double>{1, 2, 3, 0.1, 1e-9});
  EXPECT_EQ(std::accumulate(shares.begin(), shares.end(), std::int64_t{0}), huge);
}

TEST(Order, MixtureIsExactAndEven) {
  for (const std::vector<std::int64_t>& quotas : {std::vector<std::int64_t>{70, 20, 10},
                                                  {1, 99},
                                                  {99, 1},
                                                  {33, 33, 34},
                                                  {7},
                                                  {1, 1, 1, 1, 500},
                                                  {13, 29, 31, 57}}) {
    const std::int64_t total = std::accumulate(quotas.begin(), quotas.end(), std::int64_t{0});
    std::vector<std::int64_t> counts(quotas.size(), 0);
    for (std::int64_t p = 0; p < total; ++p) {
      const auto [source, index] = mixture_place(p, quotas);
      ASSERT_EQ(index, counts[source]) << "each source is gone through in order";
      ++counts[source];
      for (std::size_t i = 0; i < quotas.size(); ++i) {
        const double ideal = static_cast<double>(p + 1) * static_cast<double>(quotas[i]) / static_cast<double>(total);
        ASSERT_LE(std::abs(static_cast<double>(counts[i]) - ideal), 0.5 * std::ceil(std::log2(quotas.size())) + 1e-9)
            << "source " << i << " at " << p;
      }
    }
    EXPECT_EQ(counts, quotas);
  }
}

TEST(Order, MixtureOfHugeEpochs) {
  const std::vector<std::int64_t> quotas{std::int64_t{3} << 40, std::int64_t{1} << 40};
  const auto last = mixture_place((std::int64_t{4} << 40) - 1, quotas);
  EXPECT_EQ(last.index, quotas[last.source] - 1);
  EXPECT_EQ(mixture_place(0, quotas).index, 0);
}

}  // namespace
}  // namespace plimsoll
