// The linear relaxation bounds what the recompute planner finds, and is what it finds where nothing but bytes counts.

#include "runtime/plan/recompute_trade.hpp"

#include <gtest/gtest.h>

#include "runtime/plan/recompute_plan.hpp"
#include "tests/runtime/plan/llama_layer.hpp"
#include "tests/runtime/plan/random_layers.hpp"

namespace plimsoll {
namespace {

struct Traded {
  std::vector<RecomputeTrade> trades;
  std::vector<TradingLayers> layers;
  explicit Traded(const RecomputeStage& stage) {
    for (const LayerKind& kind : stage.kinds)
      trades.push_back(stage.link ? offload_trade(kind) : recompute_trade(kind));
    for (const int kind : stage.layers) layers.push_back({&trades[static_cast<std::size_t>(kind)], 1, stage.in_flight});
  }
};

TEST(RecomputeTrade, IsAHullFromEverythingToNothing) {
  const RecomputeTrade trade = recompute_trade(llama_8b::layer());
  ASSERT_GT(trade.size(), 4U);
  EXPECT_EQ(trade.front().saved_bytes, keep_everything(llama_8b::layer()).saved_bytes);
  EXPECT_EQ(trade.front().seconds, 0);
  EXPECT_EQ(trade.back().saved_bytes, 0);
  EXPECT_EQ(trade.back().seconds, keep_nothing(llama_8b::layer()).seconds);
  double before = 0;
  for (std::size_t k = 1; k < trade.size(); ++k) {
    const double slope = (trade[k].seconds - trade[k - 1].seconds) /
                         static_cast<double>(trade[k - 1].saved_bytes - trade[k].saved_bytes);
    EXPECT_GT(slope, before) << k;
    before = slope;
  }
}

TEST(RecomputeTrade, BoundsEveryPlan) {
  std::mt19937 random(11);
  int positive = 0, with_segments = 0;
  for (int trial = 0; trial < 200; ++trial) {
    RecomputeStage stage;
    const int layers = 1 + static_cast<int>(random() % 6);
    for (int l = 0; l < layers; ++l) {
      if (l == 0 || random() % 3 == 0) stage.kinds.push_back(random_layer(random, 3 + static_cast<int>(random() % 4)));
      stage.layers.push_back(static_cast<int>(stage.kinds.size()) - 1);
    }
    stage.in_flight = 1 + static_cast<int>(random() % 3);
    stage.head_bytes = static_cast<std::int64_t>(random() % 40);
    stage.row_splits = false;
    stage.once = random() % 2 == 0;
    if (trial % 4 == 0) stage.link = HostLink{50, 50, 0.01, trial % 8 == 0};
    const Traded traded(stage);
    const std::int64_t most = no_recompute_peak_bytes(stage);
    for (const double share : {0.2, 0.4, 0.6, 0.8, 1.0}) {
      const auto budget = static_cast<std::int64_t>(share * static_cast<double>(most));
      const RecomputeAnswer answer = plan_recompute(stage, budget);
      if (!std::holds_alternative<RecomputePlan>(answer)) continue;
      const auto& plan = std::get<RecomputePlan>(answer);
      const double bound = least_recompute_seconds(traded.layers, budget - stage.head_bytes);
      EXPECT_LE(bound, plan.seconds * (1 + 1e-9)) << "trial " << trial << ", budget " << budget << " of " << most;
      positive += bound > 0 ? 1 : 0;
      with_segments += plan.level == RecomputeLevel::Segments ? 1 : 0;
    }
    EXPECT_EQ(least_recompute_seconds(traded.layers, most), 0);
  }
  EXPECT_GT(positive, 50);
  EXPECT_GT(with_segments, 5);
}

// A link that costs nothing takes everything but the boundaries, so these are what costs.
TEST(RecomputeTrade, BoundsWhatCannotWaitInHostMemory) {
  RecomputeStage stage = llama_8b::stage(llama_8b::kLayers, 2);
  stage.row_splits = false;
  stage.link = HostLink{1e18, 1e18, 0, true};
  const std::int64_t least = std::get<RecomputeInfeasible>(plan_recompute(stage, 0)).needed_bytes;
  const std::int64_t boundaries = 2 * llama_8b::kLayers * offload_trade(stage.kinds[0]).front().saved_bytes;
  const Traded traded(stage);
  int positive = 0;
  for (int step = 0; step <= 16; ++step) {
    const std::int64_t budget = least + step * boundaries / 16;
    const double bound = least_recompute_seconds(traded.layers, budget - stage.head_bytes);
    const RecomputeAnswer answer = plan_recompute(stage, budget);
    ASSERT_TRUE(std::holds_alternative<RecomputePlan>(answer)) << step;
    EXPECT_LE(bound, std::get<RecomputePlan>(answer).seconds) << step;
    EXPECT_EQ(bound > 0, budget - stage.head_bytes < boundaries) << step;
    positive += bound > 0 ? 1 : 0;
  }
  EXPECT_GT(positive, 2);
}

TEST(RecomputeTrade, IsExactAtTheCornersOfEqualLayers) {
  const RecomputeTrade trade = recompute_trade(llama_8b::layer());
  for (const TradeCorner& corner : trade) {
    const std::vector<TradingLayers> layers{{&trade, 20, 3}, {&trade, 10, 3}};
    EXPECT_NEAR(least_recompute_seconds(layers, 90 * corner.saved_bytes), 30 * corner.seconds, 1e-12);
  }
  // Bytes are dearer where more micro-batches are in flight: dropping them there is cheaper.
  const TradeCorner& first = trade[1];
  const std::int64_t bytes = trade[0].saved_bytes - first.saved_bytes;
  const std::vector<TradingLayers> uneven{{&trade, 1, 1}, {&trade, 1, 4}};
  EXPECT_NEAR(least_recompute_seconds(uneven, 5 * trade[0].saved_bytes - 4 * bytes), first.seconds, 1e-12);
}

}  // namespace
}  // namespace plimsoll
