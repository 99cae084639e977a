#include "runtime/core/rng.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace plimsoll {
namespace {

// Known answers that come with the Random123 library (philox4x32 with 10 rounds).
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const std::uint32_t ones = 0xFFFFFFFF;
  EXPECT_EQ(philox4x32({ones, ones, ones, ones}, {ones, ones}),
            (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomStream, EntriesAreTheNumbersOfTheirBlock) {
  const RandomStream stream(0x123456789ABCDEFULL, "wte.weight");
  for (const std::uint64_t block : {0ULL, 5ULL, 0xFFFFFFFFULL, 0x1FFFFFFFFULL}) {
    for (std::uint64_t j = 0; j < 4; ++j) EXPECT_EQ(stream.bits(4 * block + j), stream.block(block)[j]);
  }
}

TEST(RandomStream, SeedStreamAndIndexAllMatter) {
  std::set<std::uint32_t> seen;
  for (const std::uint64_t seed : {1ULL, 2ULL, 1ULL << 32}) {
    for (const std::uint64_t stream : {1ULL, 2ULL, 1ULL << 32}) {
      for (const std::uint64_t index : {0ULL, 1ULL, 4ULL, 1ULL << 34}) {
        seen.insert(RandomStream(seed, stream).bits(index));
      }
    }
  }
  EXPECT_EQ(seen.size(), 36U);
}

TEST(RandomStream, UniformAndNormalHaveTheirMoments) {
  const RandomStream stream(3, "moments");
  constexpr std::uint64_t kCount = 40000;
  double uniform = 0, mean = 0, square = 0, fourth = 0;
  for (std::uint64_t i = 0; i < kCount; ++i) {
    const double u = stream.uniform(i), z = stream.normal(i);
    ASSERT_GT(u, 0);
    ASSERT_LT(u, 1);
    uniform += u / kCount;
    mean += z / kCount;
    square += z * z / kCount;
    fourth += z * z * z * z / kCount;
  }
  EXPECT_NEAR(uniform, 0.5, 0.01);
  EXPECT_NEAR(mean, 0, 0.02);
  EXPECT_NEAR(square, 1, 0.03);
  EXPECT_NEAR(fourth, 3, 0.2);
}

TEST(StreamId, IsFnv1a) {
  EXPECT_EQ(stream_id(""), 0xCBF29CE484222325U);
  EXPECT_EQ(stream_id("a"), 0xAF63DC4C8601EC8CU);
  EXPECT_EQ(stream_id("foobar"), 0x85944171F73967E8U);
}

TEST(DropoutThreshold, IsTheShareOfAllIntegers) {
  EXPECT_EQ(dropout_threshold(0), 0U);
  EXPECT_EQ(dropout_threshold(0.5), 0x80000000U);
  EXPECT_EQ(dropout_threshold(1), 0xFFFFFFFFU);
}

}  // namespace
}  // namespace plimsoll
