// Units of the flat buffers and their shards.

#include "runtime/model/flat_layout.hpp"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/launch/tiny_run.hpp"

namespace plimsoll {
namespace {

using Shares = std::vector<std::int64_t>;

Graph training_graph() { return test::tiny_training_graph(test::tiny_options(ModelFamily::Gpt2)); }

// Shards lie one behind the other on cache lines, and together are the unit.
void expect_divided(const FlatLayout& layout) {
  for (const Unit& unit : layout.units) {
    std::int64_t next = 0;
    for (int r = 0; r < layout.shards; ++r) {
      const ElementRange range = shard_range(layout, unit, r);
      EXPECT_EQ(range.first, next) << unit.name << ", shard " << r;
      EXPECT_GE(range.count, 0);
      EXPECT_EQ(range.first % 16, 0);
      next = range.first + range.count;
    }
    EXPECT_EQ(next, unit.elements) << unit.name;
  }
}

TEST(FlatLayout, ShardsAreTheUnitsWhateverTheirShares) {
  const Graph graph = training_graph();
  for (const Shares& shares : {Shares{}, {1, 1, 1}, {3, 1, 2}, {1000000, 1, 1}, {0, 1, 0}, {7, 0, 1}}) {
    const FlatLayout layout = flat_layout(graph, 3, shares);
    EXPECT_EQ(layout.elements, flat_layout(graph, 3).elements) << "shares move no parameter";
    EXPECT_EQ(layout.offset, flat_layout(graph, 3).offset);
    expect_divided(layout);
    const double all = shares.empty() ? 3 : static_cast<double>(std::accumulate(shares.begin(), shares.end(), 0LL));
    std::int64_t together = 0;
    for (std::size_t r = 0; r < 3; ++r) {
      const std::int64_t has = shard_elements(layout, static_cast<int>(r));
      const double share = static_cast<double>(shares.empty() ? 1 : shares[r]) / all;
      // Half a line at either end of each unit.
      EXPECT_NEAR(static_cast<double>(has), share * static_cast<double>(layout.elements),
                  16.0 * static_cast<double>(layout.units.size()));
      together += has;
    }
    EXPECT_EQ(together, layout.elements);
  }
}

TEST(FlatLayout, EqualSharesAreEvenParts) {
  const Graph graph = training_graph();
  const FlatLayout even = flat_layout(graph, 7), listed = flat_layout(graph, 7, Shares(7, 123456789));
  for (std::size_t u = 0; u < even.units.size(); ++u) {
    for (int r = 0; r < 7; ++r) {
      const ElementRange a = shard_range(even, even.units[u], r), b = shard_range(listed, listed.units[u], r);
      EXPECT_EQ(a.first, b.first);
      EXPECT_EQ(a.count, b.count);
      EXPECT_EQ(a.count, even.units[u].elements / 7);
    }
  }
}

// Every element of a range is in the shard of one rank, at a place of its own, in the order of the buffer.
TEST(FlatLayout, RangesOfTheBufferAreThoseOfTheShards) {
  const FlatLayout layout = flat_layout(training_graph(), 3, Shares{5, 1, 2});
  for (const auto& [first, count] :
       {std::pair{std::int64_t{0}, layout.elements}, std::pair{std::int64_t{37}, layout.elements - 100}}) {
    std::vector<int> owners(static_cast<std::size_t>(layout.elements), 0);
    for (int r = 0; r < 3; ++r) {
      std::int64_t last = -1;
      for_each_shard_range(layout, r, first, count, [&](const ShardRange& range) {
        EXPECT_GT(range.shard_first, last);
        last = range.shard_first + range.count - 1;
        EXPECT_LT(last, shard_elements(layout, r));
        for (std::int64_t i = 0; i < range.count; ++i) ++owners[static_cast<std::size_t>(range.flat_first + i)];
      });
    }
    for (std::int64_t i = 0; i < layout.elements; ++i)
      ASSERT_EQ(owners[static_cast<std::size_t>(i)], i >= first && i < first + count ? 1 : 0) << i;
  }
}

TEST(FlatLayout, SharesOfOtherShardsAreRefused) { EXPECT_THROW(flat_layout(training_graph(), 3, Shares{1, 2}), Error); }

}  // namespace
}  // namespace plimsoll
