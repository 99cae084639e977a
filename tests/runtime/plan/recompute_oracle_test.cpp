// The recompute planner beside the cheapest schedule at all (recompute_oracle.hpp): one layer.

#include "tests/runtime/plan/recompute_oracle.hpp"

#include <gtest/gtest.h>

#include "tests/runtime/plan/llama_layer.hpp"
#include "tests/runtime/plan/random_layers.hpp"

namespace plimsoll {
namespace {

// Of sums of seconds that were rounded one by one.
constexpr std::int64_t kRounding = 10;

TEST(RecomputeOracle, NothingIsCheaperThanThePlanOfADecoderLayer) {
  RecomputeStage stage = llama_8b::stage(1);
  stage.head_bytes = 0;
  stage.row_splits = false;
  const RecomputeOracle oracle(stage);
  const std::int64_t peak = no_recompute_peak_bytes(stage);
  const std::int64_t least = std::get<RecomputeInfeasible>(plan_recompute(stage, 0)).needed_bytes;
  ASSERT_LT(least, peak);
  EXPECT_EQ(oracle.cheapest(least - 1), std::nullopt) << "no schedule needs less than the planner's least budget";
  std::int64_t before = std::numeric_limits<std::int64_t>::max();
  for (int step = 0; step <= 40; ++step) {
    const std::int64_t budget = least + (peak - least) * step / 40;
    const RecomputeAnswer answer = plan_recompute(stage, budget);
    ASSERT_TRUE(std::holds_alternative<RecomputePlan>(answer));
    const auto cheapest = oracle.cheapest(budget);
    ASSERT_TRUE(cheapest) << budget;
    EXPECT_NEAR(*cheapest, picoseconds(std::get<RecomputePlan>(answer).seconds), kRounding) << budget;
    EXPECT_LE(*cheapest, before);
    before = *cheapest;
  }
  EXPECT_EQ(before, 0);
}

// Layers of any shape, where a tensor made twice may pay: the planner's answer is a schedule, so the oracle finds it or
// a better one. It finds a better one for 26 of these 548 budgets.
TEST(RecomputeOracle, PlansOfRandomLayersAreSchedules) {
  std::mt19937 random(5);
  int equal = 0, cheaper = 0;
  for (int trial = 0; trial < 200; ++trial) {
    RecomputeStage stage;
    stage.kinds = {random_layer(random, 2 + trial % 6)};
    stage.layers = {0};
    stage.head_bytes = static_cast<std::int64_t>(random() % 40);
    stage.row_splits = false;
    const RecomputeOracle oracle(stage);
    const std::int64_t peak = no_recompute_peak_bytes(stage);
    EXPECT_EQ(oracle.cheapest(peak), 0);
    EXPECT_EQ(oracle.cheapest(stage.head_bytes + stage.kinds[0].tensors[0].bytes - 1), std::nullopt);
    for (int percent = 95; percent >= 40; percent -= 5) {
      const std::int64_t budget = peak * percent / 100;
      const RecomputeAnswer answer = plan_recompute(stage, budget);
      const auto cheapest = oracle.cheapest(budget);
      if (const auto* plan = std::get_if<RecomputePlan>(&answer)) {
        ASSERT_TRUE(cheapest) << trial << ", " << percent << " %: the plan is a schedule";
        ASSERT_LE(*cheapest, picoseconds(plan->seconds)) << trial << ", " << percent << " %";
        ++(*cheapest == picoseconds(plan->seconds) ? equal : cheaper);
      }
    }
  }
  EXPECT_EQ(equal, 522);
  EXPECT_EQ(cheaper, 26);
}

}  // namespace
}  // namespace plimsoll
