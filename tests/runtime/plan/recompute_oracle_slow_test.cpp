// The recompute planner beside the cheapest schedule at all (recompute_oracle.hpp): two layers, 2^17 sets of tensors.
//
// Keep-sets and segments are not all schedules: near the floor it pays to make a tensor, free it and make it again.
// How far the planner is from that is pinned here: it may become better, not worse.

#include <gtest/gtest.h>

#include "tests/runtime/plan/llama_layer.hpp"
#include "tests/runtime/plan/random_layers.hpp"
#include "tests/runtime/plan/recompute_oracle.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kRounding = 10;

struct Distance {
  double worst = 0;  // cost of the plan over that of the cheapest schedule, by level
  int equal = 0;
};

// Budgets from `least` to the peak, in twelfths.
Distance compare(const RecomputeStage& stage, std::int64_t least, int from) {
  const RecomputeOracle oracle(stage);
  const std::int64_t peak = no_recompute_peak_bytes(stage);
  Distance distance;
  for (int step = from; step <= 12; ++step) {
    const std::int64_t budget = least + (peak - least) * step / 12;
    const auto ps = picoseconds(std::get<RecomputePlan>(plan_recompute(stage, budget)).seconds);
    const auto cheapest = oracle.cheapest(budget);
    EXPECT_TRUE(cheapest) << "the plan is a schedule";
    EXPECT_LE(cheapest.value_or(0), ps + kRounding) << step << " of 12";
    if (cheapest && std::abs(*cheapest - ps) <= kRounding) {
      ++distance.equal;
    } else if (cheapest) {
      distance.worst = std::max(distance.worst, static_cast<double>(ps) / static_cast<double>(*cheapest));
    }
  }
  return distance;
}

TEST(RecomputeOracle, NothingIsCheaperThanThePlanOfTwoDecoderLayers) {
  RecomputeStage stage = llama_8b::stage(2);
  stage.head_bytes = 0;
  stage.row_splits = false;
  const std::int64_t least = std::get<RecomputeInfeasible>(plan_recompute(stage, 0)).needed_bytes;
  const Distance distance = compare(stage, least, 0);
  EXPECT_EQ(distance.equal, 13);
  // Between the floor and the next choice a schedule is 9 % cheaper.
  const std::int64_t peak = no_recompute_peak_bytes(stage), between = least + (peak - least) / 50;
  const auto plan = std::get<RecomputePlan>(plan_recompute(stage, between));
  EXPECT_LE(plan.seconds, 1.10 * static_cast<double>(*RecomputeOracle(stage).cheapest(between)) * 1e-12);
  EXPECT_EQ(RecomputeOracle(stage).cheapest(least - least / 10), std::nullopt);
}

// What the head needs leaves room only while it runs: schedules that free kept tensors for it are cheaper, by little
// where keep-sets fit, by half where segments are needed.
TEST(RecomputeOracle, BesideAHeadThePlanOfTwoDecoderLayersIsNear) {
  RecomputeStage stage = llama_8b::stage(2);
  stage.row_splits = stage.segments = false;
  const std::int64_t keep_sets = std::get<RecomputeInfeasible>(plan_recompute(stage, 0)).needed_bytes;
  stage.segments = true;
  const std::int64_t segments = std::get<RecomputeInfeasible>(plan_recompute(stage, 0)).needed_bytes;
  EXPECT_LT(compare(stage, keep_sets, 0).worst, 1.10);
  EXPECT_LT(segments, keep_sets);
  const auto plan = std::get<RecomputePlan>(plan_recompute(stage, segments));
  const auto cheapest = RecomputeOracle(stage).cheapest(segments);
  ASSERT_TRUE(cheapest);
  EXPECT_LT(plan.seconds, 2.0 * static_cast<double>(*cheapest) * 1e-12);
}

TEST(RecomputeOracle, PlansOfTwoRandomLayersAreSchedules) {
  std::mt19937 random(11);
  int equal = 0, cheaper = 0;
  for (int trial = 0; trial < 60; ++trial) {
    RecomputeStage stage;
    stage.kinds = {random_layer(random, 3 + trial % 3)};
    stage.layers = {0, 0};
    if (trial % 2 == 0) {  // two kinds with the same boundary
      LayerKind other = random_layer(random, 3 + trial % 4);
      const std::int64_t boundary = stage.kinds[0].tensors.front().bytes;
      other.tensors.front().bytes = other.tensors.back().bytes = boundary;
      other.gradients.front().bytes = boundary;
      stage.kinds.push_back(other);
      stage.layers = {0, 1};
    }
    stage.head_bytes = static_cast<std::int64_t>(random() % 40);
    stage.row_splits = false;
    const RecomputeOracle oracle(stage);
    const std::int64_t peak = no_recompute_peak_bytes(stage);
    EXPECT_EQ(oracle.cheapest(peak), 0);
    for (int percent = 95; percent >= 40; percent -= 5) {
      const std::int64_t budget = peak * percent / 100;
      const RecomputeAnswer answer = plan_recompute(stage, budget);
      const auto* plan = std::get_if<RecomputePlan>(&answer);
      if (plan == nullptr) continue;
      const auto cheapest = oracle.cheapest(budget);
      ASSERT_TRUE(cheapest) << trial << ", " << percent << " %: the plan is a schedule";
      ASSERT_LE(*cheapest, picoseconds(plan->seconds)) << trial << ", " << percent << " %";
      ++(*cheapest == picoseconds(plan->seconds) ? equal : cheaper);
    }
  }
  EXPECT_EQ(equal, 316);
  EXPECT_EQ(cheaper, 71);
}

}  // namespace
}  // namespace plimsoll
