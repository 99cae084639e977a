// `memory.recompute: auto` where values may wait in host memory.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "launch/plan_report.hpp"
#include "launch/recompute_report.hpp"
#include "tests/launch/recompute_cases.hpp"

namespace plimsoll {
namespace {

using namespace test;

bool offloads(const std::vector<LayerRecompute>& layers) {
  return std::any_of(layers.begin(), layers.end(), [](const LayerRecompute& l) { return !l.offload.empty(); });
}

TEST(OffloadChoice, OffloadsWhereTheLinkIsFastAndNeverWhereItIsSlow) {
  const DescribedCosts fast = costs_with_link(1e-8, 1e12), slow = costs_with_link(1e-3, 1e6);
  for (const bool overlap : {false, true}) {
    ProgramOptions o = options_of({"", ModelFamily::Llama, {}});
    const std::int64_t none = outcome_of(o, fast).bytes;
    const std::int64_t alone = least_without_row_splits(o, fast);
    for (int step = 0; step < 5; ++step) {
      const std::int64_t budget = alone + (none - 1 - alone) * step / 4;
      SCOPED_TRACE(budget);
      o.host = {};
      const RecomputeChoice without = choose_recompute(o, slow, budget);
      ASSERT_TRUE(without.fits);
      EXPECT_FALSE(offloads(without.layers)) << "it was not offered";
      o.host = {kNoHostLimit, true, overlap};
      EXPECT_EQ(choose_recompute(o, slow, budget).layers, without.layers);
      const RecomputeChoice with = choose_recompute(o, fast, budget);
      ASSERT_TRUE(with.fits);
      EXPECT_LE(with.stages.front().plan.seconds, without.stages.front().plan.seconds);
      if (step == 0) continue;  // the least of all may be to make everything again
      EXPECT_TRUE(offloads(with.layers));
      EXPECT_LT(with.stages.front().plan.seconds, without.stages.front().plan.seconds / 2);
    }
  }
}

// The cost rises as host memory falls; none of it is the choice without.
TEST(OffloadChoice, StaysWithinTheHostBudget) {
  const DescribedCosts costs = costs_with_link(1e-8, 1e12);
  for (const Mesh& mesh : {Mesh{}, Mesh{.pipeline = 2}}) {
    ProgramOptions o = options_of({"", ModelFamily::Gpt2, mesh});
    const std::int64_t none = outcome_of(o, costs).bytes;
    ProgramOptions least = o;
    least.recompute = choose_recompute(o, costs, 1).layers;
    const std::int64_t fewest = outcome_of(least, costs).bytes;
    const std::int64_t budget = fewest + (none - fewest) / 3;
    const RecomputeChoice without = choose_recompute(o, costs, budget);
    o.host = kOffered;
    const RecomputeChoice all = choose_recompute(o, costs, budget);
    o.recompute = all.layers;
    const std::int64_t most = outcome_of(o, costs).host;
    ASSERT_GT(most, 0);
    double last = all.step_seconds;
    for (const int percent : {100, 70, 40, 10, 0}) {
      SCOPED_TRACE(percent);
      o.host.bytes = most * percent / 100;
      const RecomputeChoice choice = choose_recompute(o, costs, budget);
      ASSERT_TRUE(choice.fits);
      o.recompute = choice.layers;
      const Outcome outcome = outcome_of(o, costs);
      EXPECT_LE(outcome.bytes, budget);
      EXPECT_LE(outcome.host, o.host.bytes);
      EXPECT_EQ(percent > 0, outcome.host > 0);
      EXPECT_GE(choice.step_seconds, last * (1 - 1e-9));
      EXPECT_LE(choice.step_seconds, without.step_seconds * (1 + 1e-9));
      for (const StageChoice& stage : choice.stages) EXPECT_LE(stage.plan.bound_seconds, stage.plan.seconds);
      last = choice.step_seconds;
    }
  }
}

TEST(OffloadChoice, WhatItOffloadsChangesNoBitAndIsPlannedToTheByte) {
  ProgramOptions o = options_of({"", ModelFamily::Gpt2, {}, 0, false, ScheduleKind::OneFOneB, 1, kOffered});
  o.model.layers = 4;
  const auto run = [&] {
    Engine engine(build_programs(o), {1, false, {}, nullptr});
    engine.initialise(1);
    std::vector<double> all;
    for (std::int64_t step = 0; step < 2; ++step)
      all.push_back(tiny_step(engine, o, step, 0, 2 * o.micro_batch, 2 * o.micro_batch).loss());
    const TinyBatch batch = tiny_batch(o, 99, 0, o.micro_batch);
    double sum = 0, count = 0;
    engine.evaluate_micro_batch(batch.tokens, batch.targets, sum, count);
    EXPECT_EQ(engine.arena().high_water(), engine.programs().plan.total_bytes);
    EXPECT_EQ(engine.host_arena() != nullptr, offloads(o.recompute));
    if (engine.host_arena() != nullptr) {
      EXPECT_EQ(engine.host_arena()->high_water(), engine.programs().plan.host_bytes);
    }
    const std::vector<double> parameters = region_values(engine, "parameters");
    all.insert(all.end(), parameters.begin(), parameters.end());
    return all;
  };
  const std::vector<double> none = run();
  const DescribedCosts costs = costs_with_link(1e-8, 1e12);
  const std::int64_t bytes = planned_bytes(o);
  for (const int percent : {90, 75, 60}) {
    SCOPED_TRACE(percent);
    const RecomputeChoice choice = choose_recompute(o, costs, bytes * percent / 100);
    ASSERT_TRUE(choice.fits);
    ASSERT_TRUE(offloads(choice.layers));
    o.recompute = choice.layers;
    EXPECT_LE(planned_bytes(o), choice.stages.front().arena_bytes);
    EXPECT_EQ(build_programs(o).plan.host_bytes, choice.stages.front().host_bytes);
    EXPECT_TRUE(run() == none);
  }
}

// On the CPU host memory is the same memory, so `auto` asks to be asked.
TEST(OffloadChoice, OffloadsOnlyIntoAHostBudgetThatWasGiven) {
  const std::int64_t none = planned_bytes(choose_programs(config_of(), {}, Purpose::Train, 0, 0));
  const std::int64_t budget = none * 6 / 10;
  const DescribedCosts fast = costs_with_link(1e-8, 1e12);
  std::optional<RecomputeChoice> choice;
  const auto choose = [&](const std::vector<std::string>& overrides) {
    const Config config = config_of(overrides);
    const std::int64_t host = config.memory.host_budget.value_or(1 << 30);
    return choose_programs(config, {}, Purpose::Train, budget, 0, host, &fast, nullptr, &choice);
  };
  EXPECT_FALSE(offloads(choose({}).recompute));
  EXPECT_FALSE(offloads(choose({"memory.host_budget=0"}).recompute));
  const ProgramOptions o = choose({"memory.host_budget=2MiB"});
  ASSERT_TRUE(offloads(o.recompute));
  EXPECT_LE(build_programs(o).plan.host_bytes, 2 << 20);
  EXPECT_LE(planned_bytes(o), budget);
  // What was chosen is said, and can be read back.
  const std::string line = recompute_line(o.recompute);
  EXPECT_NE(line.find("offload: ["), std::string::npos) << line;
  EXPECT_EQ(read_recompute_line(line, "plan.json"), o.recompute);
  EXPECT_EQ(config_of({"memory.recompute=" + line}).memory.recompute_layers, o.recompute);
  const std::vector<RankRole> roles = rank_roles(o);
  PlanContext context;
  context.budget_bytes = budget;
  ASSERT_TRUE(choice);
  EXPECT_EQ(choice->layers, o.recompute);
  context.recompute = recompute_reports(roles, fast, choice);
  ASSERT_TRUE(context.recompute.front().planned);
  EXPECT_GT(context.recompute.front().offload_seconds, 0);
  const std::string text = plan_text(roles, context, nullptr);
  for (const char* part : {" and offload ", "copies to and from host memory", "host arena"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
  const nlohmann::json json = plan_json(roles, context)["recompute"];
  EXPECT_EQ(json["yaml"], line);
  EXPECT_FALSE(json["offloaded"].empty());
  EXPECT_GT(json["predicted_copies_share_of_step"], 0);
}

}  // namespace
}  // namespace plimsoll
