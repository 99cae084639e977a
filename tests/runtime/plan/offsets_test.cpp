#include "runtime/plan/offsets.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "runtime/core/error.hpp"
#include "runtime/core/rng.hpp"
#include "runtime/plan/replay.hpp"

namespace plimsoll {
namespace {

// Draws whole numbers in order from one seeded stream.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : stream_(seed, "offsets_test") {}
  int below(int end) { return static_cast<int>(stream_.bits(drawn_++) % static_cast<std::uint32_t>(end)); }

 private:
  RandomStream stream_;
  std::uint64_t drawn_ = 0;
};

void expect_valid(const std::vector<Lifetime>& lifetimes, const Offsets& plan, std::int64_t alignment = 512) {
  ASSERT_EQ(plan.offset.size(), lifetimes.size());
  std::vector<PlacedItem> items;
  std::map<int, std::int64_t> change;
  for (std::size_t i = 0; i < lifetimes.size(); ++i) {
    const Lifetime& l = lifetimes[i];
    EXPECT_EQ(plan.offset[i] % alignment, 0);
    items.push_back({std::to_string(i), l.bytes, l.first, l.last, plan.offset[i]});
    const std::int64_t rounded = (l.bytes + alignment - 1) / alignment * alignment;
    change[l.first] += rounded;
    change[l.last + 1] -= rounded;
  }
  EXPECT_EQ(replay(items, plan.peak_bytes).value_or("valid"), "valid");
  std::int64_t live = 0;
  std::int64_t max_live = 0;
  for (const auto& [position, bytes] : change) max_live = std::max(max_live, live += bytes);
  EXPECT_EQ(plan.max_live_bytes, max_live);
  EXPECT_GT(plan.peak_bytes + alignment, max_live);
}

// Cuts [first, last] × height units by guillotine cuts until `pieces` rectangles are left: they fill it without waste.
std::vector<Lifetime> guillotine(int positions, int height, std::size_t pieces, Dice& dice) {
  std::vector<std::pair<Lifetime, int>> parts{{{512LL * height, 0, positions - 1}, height}};
  for (int attempt = 0; parts.size() < pieces && attempt < 100'000; ++attempt) {
    auto& [part, part_height] = parts[dice.below(static_cast<int>(parts.size()))];
    const int length = part.last - part.first + 1;
    auto other = part;
    int other_height = part_height;
    if (dice.below(2) == 0 && length > 1) {
      part.last = part.first + dice.below(length - 1);
      other.first = part.last + 1;
    } else if (part_height > 1) {
      other_height = 1 + dice.below(part_height - 1);
      part_height -= other_height;
      part.bytes = 512LL * part_height;
      other.bytes = 512LL * other_height;
    } else {
      continue;
    }
    parts.emplace_back(other, other_height);
  }
  std::vector<Lifetime> lifetimes;
  for (const auto& part : parts) lifetimes.push_back(part.first);
  return lifetimes;
}

// Forward and backward of `layers` layers: saved activations live from their forward to their backward, transients and
// gradients for a few positions only.
std::vector<Lifetime> transformer_step(int layers, int ops) {
  std::vector<Lifetime> lifetimes;
  const int end = 2 * layers * ops;
  for (int layer = 0; layer < layers; ++layer) {
    for (int op = 0; op < ops; ++op) {
      const int at = layer * ops + op;
      const std::int64_t bytes = 4096LL * (1 + (op * 7) % 5) + 100;
      lifetimes.push_back({bytes, at, end - 1 - at});
      lifetimes.push_back({bytes / 2, at, at + 1});
      lifetimes.push_back({bytes, end - 1 - at, std::min(end - at, end - 1)});
    }
  }
  return lifetimes;
}

TEST(Offsets, EmptyAndSingle) {
  const Offsets none = assign_offsets({});
  EXPECT_EQ(none.peak_bytes, 0);
  EXPECT_TRUE(none.optimal);
  const std::vector<Lifetime> one{{100, 3, 3}};
  const Offsets plan = assign_offsets(one);
  EXPECT_EQ(plan.peak_bytes, 100);
  EXPECT_EQ(plan.max_live_bytes, 512);
  EXPECT_TRUE(plan.optimal);
}

TEST(Offsets, LastPositionIsInclusive) {
  const std::vector<Lifetime> meet{{512, 0, 1}, {512, 1, 2}};
  EXPECT_EQ(assign_offsets(meet).peak_bytes, 1024);
  const std::vector<Lifetime> apart{{512, 0, 1}, {512, 2, 3}};
  EXPECT_EQ(assign_offsets(apart).peak_bytes, 512);
}

TEST(Offsets, RejectsBadArguments) {
  EXPECT_THROW(assign_offsets(std::vector<Lifetime>{{0, 0, 1}}), Error);
  EXPECT_THROW(assign_offsets(std::vector<Lifetime>{{8, 2, 1}}), Error);
  EXPECT_THROW(assign_offsets(std::vector<Lifetime>{{8, 0, 1}}, {.alignment = 0}), Error);
}

TEST(Offsets, RandomInstancesAreValidAndRepeatable) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    Dice dice(seed);
    std::vector<Lifetime> lifetimes;
    const int count = 1 + dice.below(60);
    for (int i = 0; i < count; ++i) {
      const int first = dice.below(50);
      lifetimes.push_back({1 + dice.below(1 << 14), first, first + dice.below(20)});
    }
    const std::int64_t alignment = seed % 2 == 0 ? 512 : 64;
    const OffsetOptions options{.alignment = alignment, .max_nodes = 5'000};
    const Offsets plan = assign_offsets(lifetimes, options);
    expect_valid(lifetimes, plan, alignment);
    EXPECT_EQ(plan.offset, assign_offsets(lifetimes, options).offset);
  }
}

TEST(Offsets, GuillotineCutsReachTheirOptimum) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Dice dice(seed);
    const auto lifetimes = guillotine(24, 64, 12 + seed, dice);
    const Offsets plan = assign_offsets(lifetimes);
    expect_valid(lifetimes, plan);
    EXPECT_EQ(plan.max_live_bytes, 64 * 512);
    EXPECT_EQ(plan.peak_bytes, 64 * 512) << "seed " << seed << ", " << plan.method;
    EXPECT_TRUE(plan.optimal);
  }
}

TEST(Offsets, TransformerStepsReachMaxLive) {
  for (const int layers : {1, 2, 12, 80}) {
    const auto lifetimes = transformer_step(layers, 14);
    const Offsets plan = assign_offsets(lifetimes);
    expect_valid(lifetimes, plan);
    EXPECT_TRUE(plan.optimal) << layers << " layers: " << plan.method;
  }
}

TEST(Offsets, CapacityStopsTheSearch) {
  Dice dice(7);
  const auto lifetimes = guillotine(24, 64, 30, dice);
  const Offsets plan = assign_offsets(lifetimes, {.capacity = 1 << 30});
  expect_valid(lifetimes, plan);
  EXPECT_EQ(plan.method, "lifetime, first fit");
}

}  // namespace
}  // namespace plimsoll
