#include "runtime/device/arena.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "runtime/tensor/dtype.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20;

TEST(Arena, HighWaterIsTheEndOfTheLastByteWritten) {
  const auto device = make_cpu_device(1);
  Arena arena(*device, 3 * kMiB + 13);
  for (const int threads : {1, 2, 7}) {
    arena.fill_canary(threads);
    EXPECT_EQ(arena.high_water(), 0);
    for (const std::int64_t place : {std::int64_t{0}, std::int64_t{9}, kMiB - 1, kMiB, 3 * kMiB + 12}) {
      arena.base()[place] = ~arena.base()[place];
      EXPECT_EQ(arena.high_water(), place + 1);
    }
  }
}

template <class T>
void expect_seen_to_the_byte(std::initializer_list<T> values) {
  const auto device = make_cpu_device(1);
  Arena arena(*device, 4096 + 64);
  for (const T value : values) {
    arena.fill_canary();
    std::int64_t end = 0;
    for (std::int64_t at = 4096; at < arena.bytes(); at += std::int64_t{sizeof(T)}) {
      std::memcpy(arena.base() + at, &value, sizeof(T));
      end = at + std::int64_t{sizeof(T)};
      ASSERT_EQ(arena.high_water(), end);
    }
  }
}

// A value of training is never mistaken for the canary, wherever it lies.
TEST(Arena, ElementsOfEveryTypeAreSeenToTheirLastByte) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kLarge = 1.6e38F;
  expect_seen_to_the_byte({0.0F, -0.0F, 1.0F, -1.0F, 1e-42F, 3.7F, -2.1e9F, kLarge, -kLarge, -kInfinity});
  expect_seen_to_the_byte({0.0, -0.0, 1.0, -1.0, 1e-310, 1e303, -1e303});
  expect_seen_to_the_byte({bf16(0.0F), bf16(-1.0F), bf16(2.5F), bf16(kLarge)});
  expect_seen_to_the_byte({f16(0.0F), f16(-1.0F), f16(65504.0F), f16(kInfinity), f16(-kInfinity)});
  expect_seen_to_the_byte<std::int32_t>({0, -1, 1, 127, 50'256, 1 << 30});
  expect_seen_to_the_byte<std::int64_t>({0, -1, std::int64_t{1} << 60});
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
