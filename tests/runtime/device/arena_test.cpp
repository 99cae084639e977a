#include "runtime/device/arena.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20;

TEST(Arena, HighWaterIsTheEndOfTheLastWordWritten) {
  const auto device = make_cpu_device(1);
  Arena arena(*device, 3 * kMiB + 13);
  for (const int threads : {1, 2, 7}) {
    arena.fill_canary(threads);
    EXPECT_EQ(arena.high_water(), 0);
    for (const std::int64_t place : {std::int64_t{0}, std::int64_t{9}, kMiB - 1, kMiB, 3 * kMiB + 12}) {
      arena.base()[place] = ~arena.base()[place];
      EXPECT_EQ(arena.high_water(), std::min(arena.bytes(), place / 8 * 8 + 8));
    }
  }
}

TEST(Arena, EveryWordOfTheCanaryDiffersFromItsNeighbours) {
  const auto device = make_cpu_device(1);
  Arena arena(*device, 2 * kMiB);
  arena.fill_canary();
  const auto* words = reinterpret_cast<const std::uint64_t*>(arena.base());
  for (std::int64_t i = 1; i < arena.bytes() / 8; ++i) ASSERT_NE(words[i], words[i - 1]) << "word " << i;
}

TEST(Arena, MayBeEmpty) {
  const auto device = make_cpu_device(1);
  Arena arena(*device, 0);
  arena.fill_canary(4);
  EXPECT_EQ(arena.high_water(), 0);
}

}  // namespace
}  // namespace plimsoll
