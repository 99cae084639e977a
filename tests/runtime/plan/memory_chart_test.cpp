#include "runtime/plan/memory_chart.hpp"

#include <gtest/gtest.h>

#include <numeric>

#include "runtime/core/error.hpp"
#include "runtime/graph/autodiff.hpp"
#include "runtime/model/presets.hpp"
#include "runtime/model/transformer.hpp"

namespace plimsoll {
namespace {

Graph training_graph() {
  ModelConfig model;
  model.layers = 3;
  model.hidden = 48;
  model.heads = 3;
  model.vocabulary = 70;
  model = resolve(model);
  Graph graph = build_transformer(model, {.batch = 2, .sequence = 16});
  add_backward(graph);
  share_forward_memory(graph);
  classify_memory(graph);
  return graph;
}

std::int64_t sum(const ClassBytes& bytes) { return std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0}); }

TEST(LiveClassBytes, TheMostOfAllNodesIsThePeak) {
  const Graph graph = training_graph();
  const MemoryPlan plan = plan_memory(std::vector{Program{"train", &graph}}, 1);
  const ProgramLayout& train = plan.program("train");
  ASSERT_EQ(train.live_class_bytes.size(), graph.nodes.size());
  EXPECT_EQ(train.backward_begin, graph.backward_begin);
  std::int64_t most = 0;
  for (const ClassBytes& live : train.live_class_bytes) most = std::max(most, sum(live));
  // Sizes without alignment, so the node of the peak may be another one of those within a few lines of it.
  EXPECT_GE(most, sum(train.peak_class_bytes));
  EXPECT_LE(most, train.max_live_bytes);
  // Activations pile up over forward and go in backward.
  constexpr auto kActivations = static_cast<std::size_t>(MemoryClass::Activations);
  EXPECT_LT(train.live_class_bytes.front()[kActivations],
            train.live_class_bytes[graph.backward_begin][kActivations] / 4);
  EXPECT_LT(train.live_class_bytes.back()[kActivations],
            train.live_class_bytes[graph.backward_begin][kActivations] / 4);
}

// A stage with two slots: three micro-batches, one forward ahead.
Timeline two_in_flight() {
  const auto forward = [](int m, double t) { return TimedAction{{ActionKind::Forward, 0, m, m % 2}, t, t + 1}; };
  const auto backward = [](int m, double t) { return TimedAction{{ActionKind::Backward, 0, m, m % 2}, t, t + 2}; };
  return {{{forward(0, 0), forward(1, 1), backward(0, 4), forward(2, 6), backward(1, 7), backward(2, 9)}},
          12,
          {2},
          2.0 / 12};
}

struct OneStage {
  Graph graph = training_graph();
  Schedule schedule{ScheduleKind::OneFOneB, 1, 1, 3, {}, {{2}}};
  MemoryPlan plan;
  OneStage() {
    const Timeline timeline = two_in_flight();
    for (const TimedAction& t : timeline.stages.front()) actions.push_back(t.action);
    schedule.actions = {actions};
    plan = plan_memory(std::vector{Program{"train", &graph, &schedule, 0}}, 1);
  }
  std::vector<Action> actions;
};

TEST(MemorySamples, CoverTheStepAndReachThePlannedPeakWhereAllSlotsAreTaken) {
  const OneStage stage;
  const Timeline timeline = two_in_flight();
  const ProgramLayout& train = stage.plan.program("train");
  ASSERT_EQ(train.slots.size(), 1U);
  const std::vector<MemorySample> samples = memory_samples(train, {&stage.graph, &timeline, 0});
  ASSERT_FALSE(samples.empty());
  EXPECT_EQ(samples.front().begin_s, 0);
  double most[13] = {};
  for (std::size_t i = 0; i < samples.size(); ++i) {
    if (i > 0) {
      EXPECT_GE(samples[i].begin_s, samples[i - 1].begin_s);
    }
    ASSERT_LT(samples[i].begin_s, 12);
    for (const std::int64_t bytes : samples[i].bytes) EXPECT_GE(bytes, 0);
    double& second = most[static_cast<int>(samples[i].begin_s)];
    second = std::max(second, static_cast<double>(sum(samples[i].bytes)));
  }
  std::int64_t planned = 0;
  for (const ClassBytes& live : train.live_class_bytes) planned = std::max(planned, sum(live));
  double peak = 0;
  for (const double bytes : most) peak = std::max(peak, bytes);
  EXPECT_EQ(peak, static_cast<double>(planned)) << "the most is live with both slots in use";
  // One micro-batch in flight, then two; the stage waits with both, and ends with one.
  EXPECT_LT(most[0], most[1]);
  EXPECT_GT(most[2], 0);
  EXPECT_LT(most[2], most[1]);
  EXPECT_LT(most[9], most[4]);
}

TEST(MemoryChart, ShowsEveryClassThePlanAndTheBudget) {
  const OneStage stage;
  const Timeline timeline = two_in_flight();
  const StepOfRank step{&stage.graph, &timeline, 0};
  const std::string svg = memory_svg(stage.plan, "train", step,
                                     {.outside_bytes = std::int64_t{3} << 20, .budget_bytes = std::int64_t{64} << 20});
  EXPECT_TRUE(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
  for (const char* text : {"outside the arena", "parameters", "gradients", "activations", "transients", "workspace",
                           "step of 12 s", "budget 64.00 MiB", "planned "}) {
    EXPECT_NE(svg.find(text), std::string::npos) << text;
  }
  for (const char* absent : {"kv_cache", "nan", "inf"}) EXPECT_EQ(svg.find(absent), std::string::npos) << absent;
  EXPECT_EQ(memory_svg(stage.plan, "train", step, {}).find("budget"), std::string::npos);
  EXPECT_THROW(memory_svg(stage.plan, "decode", step, {}), Error);
}

TEST(StepChart, HasTheActionsAndTheMemoryOverTheSameTime) {
  const OneStage stage;
  const Timeline timeline = two_in_flight();
  const std::string svg = step_svg(stage.plan, "train", {&stage.graph, &timeline, 0}, {0, std::int64_t{64} << 20});
  EXPECT_TRUE(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
  std::size_t opened = 0, closed = 0;
  for (std::size_t at = 0; (at = svg.find("<svg ", at)) != std::string::npos; ++at) ++opened;
  for (std::size_t at = 0; (at = svg.find("</svg>", at)) != std::string::npos; ++at) ++closed;
  EXPECT_EQ(opened, 3U);
  EXPECT_EQ(closed, 3U);
  for (const char* text : {"forward of micro-batch 2, chunk 0, slot 0: 6 to 7 s",
                           "backward of micro-batch 1, chunk 0, slot 1: 7 to 9 s", "activations", "budget 64.00 MiB"}) {
    EXPECT_NE(svg.find(text), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace plimsoll
