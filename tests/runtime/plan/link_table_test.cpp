#include "runtime/plan/link_table.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

constexpr LinkLine kLine{50e-6, 1.25e8};

TEST(LinkTable, OfALineGivesTheLineBack) {
  const LinkTable table(kLine);
  for (const auto& [bytes, seconds] : table.samples()) {
    EXPECT_NEAR(table.seconds(static_cast<double>(bytes)), kLine.seconds(static_cast<double>(bytes)), 1e-12 * seconds);
  }
  EXPECT_NEAR(table.fit().latency_s, kLine.latency_s, 1e-9 * kLine.latency_s);
  EXPECT_NEAR(table.fit().bytes_per_s, kLine.bytes_per_s, 1e-6 * kLine.bytes_per_s);
  // Beyond the samples the line goes on.
  EXPECT_NEAR(table.seconds(0x1p33), kLine.seconds(0x1p33), 1e-9 * kLine.seconds(0x1p33));
}

TEST(LinkTable, BetweenSamplesIsOnTheChordOfTheLogarithms) {
  const LinkTable table({{1024, 1e-3}, {4096, 4e-3}, {8192, 5e-3}});
  EXPECT_NEAR(table.seconds(2048), 2e-3, 1e-15);
  EXPECT_NEAR(table.seconds(std::sqrt(4096.0 * 8192.0)), std::sqrt(4e-3 * 5e-3), 1e-15);
  EXPECT_EQ(table.seconds(10), 1e-3);
  EXPECT_NEAR(table.seconds(8192 + 4096), 6e-3, 1e-15);
}

TEST(LinkTable, NeverFallsWithTheSize) {
  const LinkTable table({{1024, 3e-3}, {2048, 2e-3}, {4096, 4e-3}});
  EXPECT_EQ(table.seconds(1024), 2e-3);
  double before = 0;
  for (double bytes = 512; bytes < 1e5; bytes *= 1.1) {
    EXPECT_GE(table.seconds(bytes), before) << bytes;
    before = table.seconds(bytes);
  }
}

TEST(LinkTable, FitsTheLineOfLargeMessagesAlone) {
  // Small messages take another path: ten times the latency, as above an eager limit.
  std::vector<LinkSample> samples;
  for (std::int64_t bytes = 1024; bytes <= 1 << 24; bytes *= 2) {
    const LinkLine line = bytes < 65536 ? LinkLine{5e-6, 1e9} : kLine;
    samples.push_back({bytes, line.seconds(static_cast<double>(bytes))});
  }
  const LinkLine large = LinkTable(samples).fit(65536);
  EXPECT_NEAR(large.latency_s, kLine.latency_s, 1e-6 * kLine.latency_s);
  EXPECT_NEAR(large.bytes_per_s, kLine.bytes_per_s, 1e-6 * kLine.bytes_per_s);
}

TEST(LinkTable, LatencyIsNeverNegative) {
  const LinkLine line = LinkTable({{1000, 1e-4}, {2000, 3e-4}, {4000, 7e-4}}).fit();
  EXPECT_EQ(line.latency_s, 0);
  EXPECT_GT(line.bytes_per_s, 4000 / 7e-4);
  EXPECT_LT(line.bytes_per_s, 1000 / 1e-4);
}

TEST(LinkTable, WhatTakesTheSameForAllSizesIsLatency) {
  const LinkLine line = LinkTable({{1024, 4e-3}, {4096, 4e-3}, {65536, 4e-3}, {1 << 20, 4e-3}}).fit();
  EXPECT_NEAR(line.latency_s, 4e-3, 1e-9);
  EXPECT_NEAR(line.bytes_per_s, (1 << 20) / 4e-3, 1);
}

TEST(LinkTable, RefusesWhatIsNoTable) {
  EXPECT_THROW(LinkTable(std::vector<LinkSample>{}), Error);
  EXPECT_THROW(LinkTable({{2048, 1.0}, {1024, 1.0}}), Error);
  EXPECT_THROW(LinkTable(std::vector<LinkSample>{{1024, 0.0}}), Error);
}

}  // namespace
}  // namespace plimsoll
