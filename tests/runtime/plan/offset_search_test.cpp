#include "runtime/plan/offset_search.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "runtime/plan/replay.hpp"
#include "tests/runtime/plan/offset_instances.hpp"

namespace plimsoll {
namespace {

// A placement without waste exists, so a search that ends before its nodes do has pruned something it must keep.
TEST(OffsetSearch, FindsEveryPerfectPacking) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    test::Dice dice(seed);
    const auto lifetimes = test::guillotine(24, 64, 4 + seed % 40, dice);
    const auto problem = offsets::make_problem(lifetimes, 512);
    std::int64_t nodes = 2'000'000;
    const auto placement = offsets::search(problem, problem.max_live, nodes);
    ASSERT_TRUE(placement.has_value()) << "seed " << seed << ", nodes left " << nodes;
    EXPECT_EQ(placement->peak, problem.max_live);
    std::vector<PlacedItem> items;
    for (std::size_t i = 0; i < lifetimes.size(); ++i) {
      const Lifetime& l = lifetimes[i];
      items.push_back({std::to_string(i), l.bytes, l.first, l.last, placement->offset[i] * 512});
    }
    EXPECT_EQ(replay(items, placement->peak * 512).value_or("valid"), "valid");
  }
}

TEST(OffsetSearch, RefusesLessThanMaxLiveAndStopsWithoutNodes) {
  const std::vector<Lifetime> lifetimes{{512, 0, 1}, {512, 1, 2}};
  const auto problem = offsets::make_problem(lifetimes, 512);
  std::int64_t nodes = 1'000;
  EXPECT_FALSE(offsets::search(problem, 1, nodes).has_value());
  nodes = 0;
  EXPECT_FALSE(offsets::search(problem, 2, nodes).has_value());
}

}  // namespace
}  // namespace plimsoll
