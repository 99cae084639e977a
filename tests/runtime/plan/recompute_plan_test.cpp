#include "runtime/plan/recompute_plan.hpp"

#include <gtest/gtest.h>

#include <ctime>
#include <functional>
#include <limits>

#include "runtime/plan/recompute_baselines.hpp"
#include "tests/runtime/plan/llama_layer.hpp"
#include "tests/runtime/plan/random_layers.hpp"

namespace plimsoll {
namespace {

constexpr double kMiB = 1 << 20, kGiB = 1 << 30;

// Percent of a step of Llama 3 8B.
double overhead(const std::optional<RecomputePlan>& plan) {
  return plan ? 100 * plan->seconds / llama_8b::step_seconds() : -1;
}

std::optional<RecomputePlan> planned(const RecomputeStage& stage, std::int64_t budget) {
  RecomputeAnswer answer = plan_recompute(stage, budget);
  if (auto* plan = std::get_if<RecomputePlan>(&answer)) return *plan;
  return std::nullopt;
}

TEST(RecomputePlan, Llama8bCheckValues) {
  const LayerKind kind = llama_8b::layer();
  const LayerOption all = keep_everything(kind);
  EXPECT_EQ(all.saved_bytes / kMiB, 1089.0);
  EXPECT_EQ(all.backward_peak_bytes / kMiB, 1601.0);
  EXPECT_EQ(keep_nothing(kind).saved_bytes / kMiB, 64.0);
  EXPECT_EQ(layer_options(kind, {}).options.size(), 42U);
  EXPECT_NEAR(kind.forward_seconds() * 1e3, 7.058, 0.0005);
  EXPECT_NEAR(llama_8b::step_seconds() * 1e3, 740.3, 0.05);
  EXPECT_NEAR(llama_8b::head_bytes() / kGiB, 1.17, 0.005);
  EXPECT_NEAR(no_recompute_peak_bytes(llama_8b::stage()) / kGiB, 35.20, 0.005);
}

TEST(RecomputePlan, Llama8bTable) {
  struct Row {
    double budget, optimal, first_layers, uniform, greedy;  // shares of the peak; percent of the step
  };
  const RecomputeStage stage = llama_8b::stage();
  const std::int64_t peak = no_recompute_peak_bytes(stage);
  for (const Row& row : {Row{1.00, 0, 0, 0, 0}, Row{0.75, 0.94, 8.6, 1.0, 0.9}, Row{0.50, 7.34, 17.2, 11.0, 7.7},
                         Row{0.35, 12.23, 21.9, 14.0, 12.5}, Row{0.25, 15.56, 25.7, 16.1, 15.6}}) {
    SCOPED_TRACE(row.budget);
    const auto budget = static_cast<std::int64_t>(row.budget * static_cast<double>(peak));
    const auto plan = planned(stage, budget);
    ASSERT_TRUE(plan);
    EXPECT_TRUE(plan->exact());
    EXPECT_LE(plan->peak_bytes, budget);
    EXPECT_EQ(plan->level, RecomputeLevel::Layers);
    EXPECT_NEAR(overhead(plan), row.optimal, 0.005);
    EXPECT_NEAR(overhead(recompute_first_layers(stage, budget)), row.first_layers, 0.05);
    EXPECT_NEAR(overhead(recompute_uniform(stage, budget)), row.uniform, 0.05);
    EXPECT_NEAR(overhead(recompute_greedy(stage, budget)), row.greedy, 0.05);
  }
}

// The least seconds within `budget` over all keep-sets of all layers, and the least peak, by trying them.
struct Tried {
  double seconds = -1;
  std::int64_t least_peak = std::numeric_limits<std::int64_t>::max();
};

Tried try_all(const RecomputeStage& stage, const std::vector<std::vector<NaiveCost>>& costs, std::int64_t budget) {
  Tried tried;
  std::vector<const NaiveCost*> chosen;
  const std::function<void()> extend = [&] {
    if (chosen.size() < stage.layers.size()) {
      for (const NaiveCost& cost : costs[stage.layers[chosen.size()]]) {
        chosen.push_back(&cost);
        extend();
        chosen.pop_back();
      }
      return;
    }
    std::int64_t total = 0, before = 0, peak = 0;
    double seconds = 0;
    for (const NaiveCost* c : chosen) total += c->saved;
    for (const NaiveCost* c : chosen) {
      const bool apart = stage.kinds.front().saved_apart;
      const std::int64_t others = apart ? stage.in_flight * total : (stage.in_flight - 1) * total + before;
      peak = std::max(peak, others + std::max(c->forward_peak, c->backward_peak));
      before += c->saved;
      seconds += c->seconds;
    }
    peak = std::max(peak, stage.in_flight * total + stage.head_bytes);
    tried.least_peak = std::min(tried.least_peak, peak);
    if (peak <= budget && (tried.seconds < 0 || seconds < tried.seconds)) tried.seconds = seconds;
  };
  extend();
  return tried;
}

// Layers and tensors per layer.
void compare_with_all(std::mt19937& random, int layers, int tensors, int in_flight, bool apart = false) {
  RecomputeStage stage;
  std::vector<std::vector<NaiveCost>> costs;
  for (int l = 0; l < layers; ++l) {
    const bool same = l > 0 && random() % 3 == 0;
    if (!same) {
      stage.kinds.push_back(random_layer(random, tensors));
      stage.kinds.back().saved_apart = apart;
      costs.push_back(naive_costs(stage.kinds.back()));
    }
    stage.layers.push_back(static_cast<int>(stage.kinds.size()) - 1);
  }
  stage.in_flight = in_flight;
  stage.head_bytes = static_cast<std::int64_t>(random() % 60);
  stage.segments = stage.row_splits = false;
  const std::int64_t most = no_recompute_peak_bytes(stage);
  const std::int64_t least = try_all(stage, costs, most).least_peak;
  for (const double share : {0.0, 0.1, 0.25, 0.5, 0.8, 1.0}) {
    const auto budget = least + static_cast<std::int64_t>(share * static_cast<double>(most - least));
    const auto plan = planned(stage, budget);
    ASSERT_TRUE(plan);
    EXPECT_TRUE(plan->exact());
    EXPECT_LE(plan->peak_bytes, budget);
    EXPECT_EQ(picoseconds(plan->seconds), picoseconds(try_all(stage, costs, budget).seconds));
  }
  const RecomputeAnswer below = plan_recompute(stage, least - 1);
  ASSERT_TRUE(std::holds_alternative<RecomputeInfeasible>(below));
  EXPECT_EQ(std::get<RecomputeInfeasible>(below).needed_bytes, least);
}

TEST(RecomputePlan, EqualsBruteForceOverKeepSets) {
  std::mt19937 random(7);
  for (int trial = 0; trial < 200; ++trial)
    compare_with_all(random, 1 + trial % 3, 1 + trial / 7 % 4, 1 + trial % 4, trial % 5 == 0);
  for (int trial = 0; trial < 8; ++trial) compare_with_all(random, 2, 6, 1 + trial % 4);
  for (int trial = 0; trial < 4; ++trial) compare_with_all(random, 1, 8, 1 + trial);
}

std::int64_t share_of_peak(const RecomputeStage& stage, double share) {
  return static_cast<std::int64_t>(share * static_cast<double>(no_recompute_peak_bytes(stage)));
}

TEST(RecomputePlan, CostNeverRisesWithTheBudgetDownToWhatIsNeeded) {
  for (const int in_flight : {1, 4}) {
    const RecomputeStage stage = llama_8b::stage(16, in_flight);
    double before = std::numeric_limits<double>::infinity();
    std::int64_t needed = 0;
    for (int percent = 2; percent <= 100; percent += 7) {
      const std::int64_t budget = share_of_peak(stage, percent / 100.0);
      const RecomputeAnswer answer = plan_recompute(stage, budget);
      if (const auto* infeasible = std::get_if<RecomputeInfeasible>(&answer)) {
        EXPECT_GT(infeasible->needed_bytes, budget);
        needed = infeasible->needed_bytes;
        continue;
      }
      const auto& plan = std::get<RecomputePlan>(answer);
      EXPECT_GE(budget, needed);
      EXPECT_LE(plan.peak_bytes, budget);
      EXPECT_LE(plan.bound_seconds, before);
      EXPECT_LE(plan.seconds, before);
      before = plan.seconds;
    }
    EXPECT_EQ(before, 0);  // the last budget is the whole peak
    ASSERT_GT(needed, 0);
    EXPECT_TRUE(planned(stage, needed));
    EXPECT_FALSE(planned(stage, needed - 1));
  }
}

TEST(RecomputePlan, SegmentsNearTheFloorAndRowSplitsBelow) {
  RecomputeStage stage = llama_8b::stage();
  stage.segments = stage.row_splits = false;
  const auto floor = std::get<RecomputeInfeasible>(plan_recompute(stage, 0)).needed_bytes;
  const auto at_floor = planned(llama_8b::stage(), floor);
  ASSERT_TRUE(at_floor);
  EXPECT_EQ(planned(llama_8b::stage(), 2 * floor)->level, RecomputeLevel::Layers);
  const auto segments = planned(llama_8b::stage(), floor - 1);
  ASSERT_TRUE(segments);
  EXPECT_EQ(segments->level, RecomputeLevel::Segments);
  EXPECT_LE(segments->peak_bytes, floor - 1);
  EXPECT_GE(segments->seconds, at_floor->seconds);  // so at the floor segments were on offer already
  stage.segments = true;
  const auto with_segments = std::get<RecomputeInfeasible>(plan_recompute(stage, 0)).needed_bytes;
  EXPECT_LT(with_segments, floor);
  const auto split = planned(llama_8b::stage(), with_segments - 1);
  ASSERT_TRUE(split);
  EXPECT_EQ(split->level, RecomputeLevel::RowSplits);
  EXPECT_LE(split->peak_bytes, with_segments - 1);
}

TEST(RecomputePlan, OffloadIsUsedWhereTheLinkIsFast) {
  RecomputeStage stage = llama_8b::stage();
  std::vector<BackwardStep>& steps = stage.kinds.front().steps;
  for (BackwardStep& step : steps) step.seconds = llama_8b::backward_seconds() / static_cast<double>(steps.size());
  const std::int64_t budget = share_of_peak(stage, 0.35);
  const auto without = planned(stage, budget);
  stage.link = HostLink{50e9, 50e9, 10e-6, true};
  const auto fast = planned(stage, budget);
  stage.link = HostLink{1e8, 1e8, 10e-6, true};
  const auto slow = planned(stage, budget);
  ASSERT_TRUE(without && fast && slow);
  EXPECT_EQ(without->host_bytes, 0);
  EXPECT_GT(fast->host_bytes, 0);
  EXPECT_LT(fast->seconds, without->seconds);
  EXPECT_EQ(slow->host_bytes, 0);
  EXPECT_EQ(slow->seconds, without->seconds);
}

TEST(RecomputePlan, EightyLayersInUnderASecondOfProcessorTime) {
  const RecomputeStage stage = llama_8b::stage(80, 4);
  const std::clock_t start = std::clock();
  const auto plan = planned(stage, share_of_peak(stage, 0.35));
  EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 1.0);
  ASSERT_TRUE(plan);
  EXPECT_TRUE(plan->exact());
}

}  // namespace
}  // namespace plimsoll
