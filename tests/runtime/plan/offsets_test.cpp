#include "runtime/plan/offsets.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "runtime/core/error.hpp"
#include "runtime/plan/offset_problem.hpp"
#include "runtime/plan/replay.hpp"
#include "tests/runtime/plan/offset_instances.hpp"
#include "tests/support/golden.hpp"

namespace plimsoll {
namespace {

using test::Dice;
using test::guillotine;

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

// Lines of id,lower,upper,size under a heading; upper is exclusive.
std::vector<Lifetime> read_minimalloc(const std::filesystem::path& file) {
  std::vector<Lifetime> lifetimes;
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  long long id = 0, lower = 0, upper = 0, size = 0;
  while (std::getline(in, line)) {
    if (std::sscanf(line.c_str(), "%lld,%lld,%lld,%lld", &id, &lower, &upper, &size) != 4) continue;
    lifetimes.push_back({size, static_cast<int>(lower), static_cast<int>(upper) - 1});
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

// Also where the last buffer ends within its last unit.
TEST(Offsets, EnoughIsAnsweredToTheByte) {
  int needs_the_last_unit = 0;
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    Dice dice(seed);
    std::vector<Lifetime> lifetimes = guillotine(12, 30, 14, dice);
    for (Lifetime& l : lifetimes) l.bytes -= dice.below(500);
    const Offsets free = assign_offsets(lifetimes);
    const std::int64_t best = free.peak_bytes;
    needs_the_last_unit += best < free.max_live_bytes ? 1 : 0;
    for (const std::int64_t enough : {best - 512, best - 1, best, best + 1, best + 300, best + 512}) {
      const Offsets plan = assign_offsets(lifetimes, {.enough = enough});
      EXPECT_EQ(plan.peak_bytes <= enough, best <= enough) << seed << ": " << enough << ", at best " << best;
      expect_valid(lifetimes, plan);
    }
  }
  EXPECT_GT(needs_the_last_unit, 5);
}

TEST(Offsets, RejectsBadArguments) {
  EXPECT_THROW(assign_offsets(std::vector<Lifetime>{{0, 0, 1}}), Error);
  EXPECT_THROW(assign_offsets(std::vector<Lifetime>{{8, 2, 1}}), Error);
  EXPECT_THROW(assign_offsets(std::vector<Lifetime>{{8, 0, 1}}, {.alignment = 0}), Error);
}

// Where a buffer goes, from all that were placed before.
std::int64_t place_beside_all(const std::vector<offsets::Item>& items, const std::vector<int>& placed,
                              const std::vector<std::int64_t>& offset, const offsets::Item& item, offsets::Fit fit) {
  std::vector<std::pair<std::int64_t, std::int64_t>> beside;  // offset, end
  for (const int k : placed) {
    const offsets::Item& other = items[static_cast<std::size_t>(k)];
    const std::int64_t at = offset[static_cast<std::size_t>(k)];
    if (other.first <= item.last && other.last >= item.first) beside.emplace_back(at, at + other.size);
  }
  std::sort(beside.begin(), beside.end());
  std::int64_t top = 0, best = -1, best_gap = 0;
  for (const auto& [at, end] : beside) {
    const std::int64_t gap = at - top;
    if (gap >= item.size && (best < 0 || (fit == offsets::Fit::Best && gap < best_gap))) {
      best = top;
      best_gap = gap;
    }
    top = std::max(top, end);
  }
  return best >= 0 ? best : top;
}

TEST(Offsets, ManyBuffersArePlacedAsIfEachWereComparedWithAllOthers) {
  Dice dice(7);
  std::vector<Lifetime> random;
  for (int i = 0; i < 1500; ++i) {
    const int first = dice.below(400);
    random.push_back({512LL * (1 + dice.below(40)), first, first + dice.below(i % 3 == 0 ? 300 : 4)});
  }
  for (const std::vector<Lifetime>& lifetimes : {random, transformer_step(40, 10)}) {
    const offsets::Problem problem = offsets::make_problem(lifetimes, 512);
    for (int which = 0; which < offsets::kOrders; ++which) {
      const offsets::Order order = offsets::portfolio_order(problem, which);
      for (const offsets::Fit fit : {offsets::Fit::First, offsets::Fit::Best}) {
        const offsets::Placement placement = offsets::place_in_order(problem, order.items, fit);
        std::vector<int> placed;
        int others = 0;
        for (const int i : order.items) {
          const auto at = static_cast<std::size_t>(i);
          others +=
              place_beside_all(problem.items, placed, placement.offset, problem.items[at], fit) == placement.offset[at]
                  ? 0
                  : 1;
          placed.push_back(i);
        }
        EXPECT_EQ(others, 0) << order.name;
      }
    }
  }
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
    const auto lifetimes = guillotine(24, 64, 24 + seed, dice);
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

#if !defined(__OPTIMIZE__) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr double kMostSeconds = 300;
#else
constexpr double kMostSeconds = 5;
#endif

// Each within 1.10 of the capacity and five seconds of this thread, whoever else computes here.
TEST(Offsets, MinimallocInstances) {
  const auto shared = test::shared_folder();
  if (!shared || !std::filesystem::is_directory(*shared / "data/minimalloc")) {
    GTEST_SKIP() << "shared/data/minimalloc is not here (PLIMSOLL_SHARED)";
  }
  constexpr std::int64_t kCapacity = 1 << 20;
  int instances = 0;
  int within = 0;
  for (char name = 'A'; name <= 'K'; ++name) {
    const auto lifetimes = read_minimalloc(*shared / "data/minimalloc" / (std::string(1, name) + ".1048576.csv"));
    ASSERT_FALSE(lifetimes.empty()) << name;
    const std::clock_t begin = std::clock();
    const Offsets plan = assign_offsets(lifetimes, {.max_nodes = 2'000'000, .capacity = kCapacity});
    const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
    expect_valid(lifetimes, plan);
    const double ratio = static_cast<double>(plan.peak_bytes) / kCapacity;
    std::printf("%c: %zu buffers, %.4f of the capacity, %.2f s, %s\n", name, lifetimes.size(), ratio, seconds,
                plan.method.c_str());
    EXPECT_LE(ratio, 1.10) << name;
    EXPECT_LE(seconds, kMostSeconds) << name;
    ++instances;
    within += plan.peak_bytes <= kCapacity ? 1 : 0;
  }
  std::printf("%d of %d instances within the capacity\n", within, instances);
  EXPECT_EQ(instances, 11);
  EXPECT_GE(within, 9);
}

}  // namespace
}  // namespace plimsoll
