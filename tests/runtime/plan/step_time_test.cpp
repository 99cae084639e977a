// A step on a clock: kernels one after another, collectives beside them, micro-batches, the update.

#include "runtime/plan/step_time.hpp"

#include <gtest/gtest.h>

#include "tests/launch/tiny_run.hpp"

namespace plimsoll {
namespace {

using namespace test;

// A second for each kernel of a phase, and for each byte of a collective so many.
class PlainCosts : public CostModel {
 public:
  explicit PlainCosts(double wire, double slows = 0) : wire_(wire), slows_(slows) {}
  double node_seconds(const Graph&, const Node& node) const override { return op_info(node.op).collective ? 0 : 1; }
  double collective_seconds(CollectiveKind, std::int64_t bytes, int ranks, int) const override {
    return ranks > 1 ? wire_ * static_cast<double>(bytes) : 0;
  }
  double collective_slows(CollectiveKind, int, int) const override { return slows_; }
  double memory_seconds(std::int64_t) const override { return 0; }

 private:
  double wire_, slows_;
};

int next_to(std::string_view) { return 1; }

struct Counts {
  double forward = 0, backward = 0, update = 0;
  explicit Counts(const Graph& graph) {
    for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
      using enum Graph::Section;
      if (op_info(graph.nodes[n].op).collective) continue;
      (graph.section(n) == Forward ? forward : graph.section(n) == Backward ? backward : update) += 1;
    }
  }
};

TEST(StepTime, OneRankAddsUpItsKernels) {
  const Programs programs = build_programs(tiny_options(ModelFamily::Gpt2));
  const Graph& graph = programs.graph("train");
  const Counts counts(graph);
  const StepClock clock(graph, PlainCosts(0), next_to);
  for (const std::int64_t m : {1, 2, 3, 5, 100}) {
    const auto many = static_cast<double>(m);
    EXPECT_DOUBLE_EQ(clock.step_seconds(m), many * (counts.forward + counts.backward) + counts.update) << m;
    const StepClock::Work work = clock.work(m);
    EXPECT_DOUBLE_EQ(work.forward_s, counts.forward);
    EXPECT_DOUBLE_EQ(work.backward_s, counts.backward);
    EXPECT_DOUBLE_EQ(work.update_s, counts.update);
    EXPECT_EQ(work.recompute_s, 0);
    EXPECT_TRUE(work.collective_s.empty());
  }
  EXPECT_DOUBLE_EQ(clock.update_seconds(), counts.update);
  const StepClock::Piece piece = clock.piece_seconds(0, Variant::Middle);
  EXPECT_DOUBLE_EQ(piece.forward_s, counts.forward);
  EXPECT_DOUBLE_EQ(piece.first_half_s + piece.second_half_s, counts.backward);
}

TEST(StepTime, WhatIsMadeAgainIsPartOfBackward) {
  ProgramOptions o = tiny_options(ModelFamily::Gpt2);
  const Programs kept = build_programs(o);
  o.recompute.assign(static_cast<std::size_t>(o.model.layers), {RecomputeMode::Full, {}});
  const Programs again = build_programs(o);
  const auto nodes = std::count_if(again.graph("train").nodes.begin(), again.graph("train").nodes.end(),
                                   [](const Node& node) { return node.again; });
  ASSERT_GT(nodes, 4);
  const StepClock::Work work = StepClock(again.graph("train"), PlainCosts(0), next_to).work(3);
  EXPECT_DOUBLE_EQ(work.recompute_s, static_cast<double>(nodes));
  EXPECT_DOUBLE_EQ(work.backward_s - work.recompute_s, Counts(kept.graph("train")).backward);
}

// Replicas sum their gradients in the last micro-batch: free where it is fast, and where it is slow all that the step
// waits for.
TEST(StepTime, CollectivesAreHiddenUntilTheyTakeLonger) {
  ProgramOptions o = tiny_options(ModelFamily::Gpt2);
  o.mesh.data = 2;
  o.bucket_bytes = 8 << 10;
  const Programs programs = build_programs(o);
  const Graph& graph = programs.graph("train");
  const Counts counts(graph);
  const double free = 3 * (counts.forward + counts.backward) + counts.update;
  const StepClock fast(graph, PlainCosts(0), next_to);
  EXPECT_DOUBLE_EQ(fast.step_seconds(3), free);
  double before = free;
  for (const double wire : {1e-6, 1e-4, 1e-2, 1.0}) {
    const StepClock clock(graph, PlainCosts(wire), next_to);
    const double step = clock.step_seconds(3), sent = clock.work(3).collective_s.at("data");
    EXPECT_GE(step, before);
    EXPECT_LE(step, free + sent + 1e-9);
    EXPECT_GE(step, std::max(free, sent));
    EXPECT_DOUBLE_EQ(clock.work(9).collective_s.at("data"), sent) << "once a step";
    before = step;
  }
  EXPECT_GT(before, 10 * free);
}

// Kernels beside collectives lose a share of their time, at most that share of what the collectives take.
TEST(StepTime, CollectivesSlowTheKernelsBesideThem) {
  ProgramOptions o = tiny_options(ModelFamily::Gpt2);
  o.mesh.data = 2;
  o.bucket_bytes = 8 << 10;
  const Programs programs = build_programs(o);
  const Graph& graph = programs.graph("train");
  for (const double wire : {1e-6, 1e-4, 1e-3}) {
    const double plain = StepClock(graph, PlainCosts(wire), next_to).step_seconds(2);
    const double sent = StepClock(graph, PlainCosts(wire), next_to).work(2).collective_s.at("data");
    double before = plain;
    for (const double slows : {0.1, 0.5, 0.9}) {
      const double step = StepClock(graph, PlainCosts(wire, slows), next_to).step_seconds(2);
      EXPECT_GT(step, before) << wire << " " << slows;
      EXPECT_LE(step, plain + slows * sent + 1e-9) << wire << " " << slows;
      before = step;
    }
  }
}

// ZeRO-3 gathers in every micro-batch, forward and backward.
TEST(StepTime, GathersCountInEveryMicroBatch) {
  ProgramOptions o = tiny_options(ModelFamily::Llama);
  o.mesh = {.data = 2, .shards = 2};
  o.zero = 3;
  const Programs programs = build_programs(o);
  const StepClock clock(programs.graph("train"), PlainCosts(1e-3), next_to);
  const auto sent = [&](std::int64_t m) { return clock.work(m).collective_s.at("shard"); };
  EXPECT_NEAR(sent(5) - sent(4), sent(4) - sent(3), 1e-9);
  EXPECT_GT(sent(4) - sent(3), 0.5 * sent(1));
  EXPECT_GT(clock.step_seconds(4), clock.step_seconds(3));
}

}  // namespace
}  // namespace plimsoll
