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

TEST(MemoryChart, ShowsEveryClassThePlanAndTheBudget) {
  const Graph graph = training_graph();
  const MemoryPlan plan = plan_memory(std::vector{Program{"train", &graph}}, 1);
  const std::string svg =
      memory_svg(plan, "train", {.outside_bytes = std::int64_t{3} << 20, .budget_bytes = std::int64_t{64} << 20});
  EXPECT_TRUE(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
  for (const char* text : {"outside the arena", "parameters", "gradients", "activations", "transients", "workspace",
                           "backward", "budget 64.00 MiB", "planned "}) {
    EXPECT_NE(svg.find(text), std::string::npos) << text;
  }
  for (const char* absent : {"kv_cache", "nan"}) EXPECT_EQ(svg.find(absent), std::string::npos) << absent;
  EXPECT_EQ(memory_svg(plan, "train", {}).find("budget"), std::string::npos);
  EXPECT_THROW(memory_svg(plan, "decode", {}), Error);
}

}  // namespace
}  // namespace plimsoll
