#include "runtime/plan/simulate.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <tuple>

#include "runtime/core/error.hpp"
#include "tests/runtime/plan/schedules.hpp"

namespace plimsoll {
namespace {

constexpr ChunkCost kUnit{1, 1, 1};

Timeline run(const Schedule& s, const ChunkCost& cost = kUnit, const PipelineLink& link = {}) {
  return simulate(s, uniform_costs(s, cost, link));
}

// Narayanan et al. 2021, sections 2.1 and 2.2; Qi et al. 2023, table 2: idle time (p - 1)(F + I - W) from m = p on.
TEST(Simulate, UnitCostsGiveThePublishedBubbles) {
  test::for_each_schedule(12, 24, [](const Schedule& s) {
    const double p = s.stages;
    const double m = s.micro_batches;
    const double v = s.chunks;
    const Timeline t = run(s);
    double bubble = (p - 1) / (v * m + p - 1);
    if (s.kind == ScheduleKind::ZbH1) {
      const double idle = std::max(m, p) + p - 1 - m;
      bubble = idle / (3 * m + idle);
      if (m >= p) {
        EXPECT_DOUBLE_EQ(idle, p - 1);  // a third of 3 (p - 1)
      }
    }
    ASSERT_NEAR(t.bubble, bubble, 1e-12) << test::name(s);
    for (const double idle : t.idle_s) ASSERT_NEAR(idle, bubble * t.step_s, 1e-9) << test::name(s);
  });
}

// Two stages, one micro-batch, messages of 4 bytes at 1 byte/s, latency 1: F, the output, F, B, the gradient, B.
TEST(Simulate, PartsOfAnOutputLeaveWhileTheNextIsMade) {
  const Schedule s = make_schedule(ScheduleKind::OneFOneB, 2, 1);
  const auto step = [&](double product_s, int parts) {
    const ChunkCost cost{10, 5, 5, product_s};
    return run(s, cost, {1, 1, 4, parts}).step_s;
  };
  EXPECT_DOUBLE_EQ(step(0, 1), 10 + 5 + 10 + 10 + 5 + 10);
  EXPECT_DOUBLE_EQ(step(8, 1), 50) << "whole: it waits for all of the product";
  // Halves are ready at 6 and 10: the first has arrived at 6 + 2 + 1, the second at 10 + 2 + 1.
  EXPECT_DOUBLE_EQ(step(8, 2), 50 - 2);
  // A part each second of 7, 8, 9, 10: each takes two seconds, so the last arrives at 7 + 4 * 2.
  EXPECT_DOUBLE_EQ(step(4, 4), 50);
  EXPECT_DOUBLE_EQ(step(0, 4), 50 + 3) << "nothing to hide behind: each further part costs a latency";
  EXPECT_THROW(run(s, {10, 5, 5, 8}, {1, 1, 4, 0}), Error);
}

// What cutting is worth with the links that it is for: some of a step, never more than the product of each hop.
TEST(Simulate, PartsGainAtMostTheProductOfEachHop) {
  // GPT-2 124M, 1024 tokens at 50 GFLOP/s: a layer forward in 0.29 s, a third of it the last product; 3 MiB messages.
  const double product = 0.097;
  for (const auto& [latency_s, bytes_per_s] : {std::pair{1e-4, 125e6}, {1e-3, 12.5e6}}) {
    for (const int stages : {2, 4}) {
      const ChunkCost cost{0.29 * 12 / stages, 0.29 * 12 / stages, 0.29 * 12 / stages, product};
      for (const ScheduleKind kind : {ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1}) {
        const Schedule s = make_schedule(kind, stages, 4);
        const double whole = run(s, cost, {latency_s, bytes_per_s, 3145728, 1}).step_s,
                     parts = run(s, cost, {latency_s, bytes_per_s, 3145728, 8}).step_s;
        EXPECT_LT(parts, whole) << test::name(s);
        EXPECT_GT(parts, whole - product * (stages - 1) * 4) << test::name(s);
        EXPECT_GT(parts, 0.97 * whole) << test::name(s) << ": a small part of a step";
      }
    }
  }
}

TEST(Simulate, ZeroBubbleIdlesAThirdOfOneFOneB) {
  for (const int p : {2, 4, 8, 16, 32}) {
    for (const int m : {4 * p, 8 * p, 32 * p}) {
      const Timeline one = run(make_schedule(ScheduleKind::OneFOneB, p, m));
      const Timeline zero = run(make_schedule(ScheduleKind::ZbH1, p, m));
      EXPECT_NEAR(zero.idle_s[0] / one.idle_s[0], 1.0 / 3, 1e-12);
      EXPECT_NEAR(zero.bubble / one.bubble, 1.0 / 3, 0.15) << p << " stages, " << m << " micro-batches";
    }
  }
}

TEST(Simulate, BubbleOfAnyUniformCost) {
  const ChunkCost cost{2.5, 3, 2};  // F >= W, as in transformers, or p slots do not last for the formula of ZB-H1
  for (int p = 1; p <= 8; ++p) {
    const int m = 3 * p;
    const double all = cost.forward_s + cost.input_grad_s + cost.weight_grad_s;
    EXPECT_NEAR(run(make_schedule(ScheduleKind::GPipe, p, m), cost).step_s, (m + p - 1) * all, 1e-9);
    EXPECT_NEAR(run(make_schedule(ScheduleKind::OneFOneB, p, m), cost).step_s, (m + p - 1) * all, 1e-9);
    EXPECT_NEAR(run(make_schedule(ScheduleKind::Interleaved, p, m, 2), cost).step_s, (m + (p - 1) / 2.0) * all, 1e-9);
    EXPECT_NEAR(run(make_schedule(ScheduleKind::ZbH1, p, m), cost).step_s,
                m * all + (p - 1) * (cost.forward_s + cost.input_grad_s - cost.weight_grad_s), 1e-9);
  }
}

// Two stages, one micro-batch, worked by hand: 100 bytes at 50 bytes/s and 0.25 s of latency.
TEST(Simulate, MessagesTakeTheirTime) {
  const Schedule s = make_schedule(ScheduleKind::OneFOneB, 2, 1);
  const Timeline t = run(s, kUnit, {0.25, 50, 100});
  EXPECT_DOUBLE_EQ(t.stages[1][0].start_s, 3.25);
  EXPECT_DOUBLE_EQ(t.stages[1][1].start_s, 4.25);
  EXPECT_DOUBLE_EQ(t.stages[0][1].start_s, 8.5);
  EXPECT_DOUBLE_EQ(t.step_s, 10.5);
  EXPECT_DOUBLE_EQ(t.idle_s[0], 7.5);
  EXPECT_DOUBLE_EQ(t.bubble, 15.0 / 21);
}

// A message takes 2 s of the link and an action 1 s: the link is the bottleneck, latency is paid once.
TEST(Simulate, MessagesOfOneDirectionFollowEachOther) {
  const Schedule s = make_schedule(ScheduleKind::GPipe, 2, 4);
  const Timeline t = run(s, kUnit, {0.5, 1, 2});
  for (int i = 0; i < 4; ++i) EXPECT_DOUBLE_EQ(t.stages[1][i].start_s, 1 + 2 * (i + 1) + 0.5);
}

TEST(Simulate, MessagesOverlapWithCompute) {
  const Schedule s = make_schedule(ScheduleKind::GPipe, 2, 8);
  const double free = run(s).step_s;
  const double slow = run(s, kUnit, {0, 1, 0.5}).step_s;
  EXPECT_DOUBLE_EQ(slow, free + 2 * 0.5);  // of 16 messages only the first of each direction is waited for
}

// The chunks of a single stage are joined by nothing.
TEST(Simulate, OneStageNeverIdles) {
  EXPECT_DOUBLE_EQ(run(make_schedule(ScheduleKind::Interleaved, 1, 3, 3), kUnit, {1, 1, 1}).bubble, 0);
}

TEST(Simulate, TheSlowestStageSetsThePace) {
  const Schedule s = make_schedule(ScheduleKind::OneFOneB, 2, 10);
  PipelineCosts costs = uniform_costs(s, kUnit);
  costs.chunks[1][0] = {2, 2, 2};
  const Timeline t = simulate(s, costs);
  EXPECT_DOUBLE_EQ(t.step_s, 1 + 10 * 6 + 2);  // the first forward, all of stage 1, the last backward
  EXPECT_DOUBLE_EQ(t.idle_s[1], 3);
}

// Every start is the earliest that the list and the message allow, for any costs.
TEST(Simulate, ActionsBeginAsSoonAsTheyCan) {
  std::mt19937 random(1);
  const auto dice = [&] { return static_cast<double>(random() % 1000) / 100; };
  test::for_each_schedule(5, 10, [&](const Schedule& s) {
    PipelineCosts costs = uniform_costs(s, kUnit, {dice()});
    for (auto& stage : costs.chunks) {
      for (ChunkCost& c : stage) c = {dice(), dice(), dice()};
    }
    const Timeline t = simulate(s, costs);
    std::map<std::tuple<int, int, int, ActionKind>, double> end;  // stage, chunk, micro-batch
    for (int stage = 0; stage < s.stages; ++stage) {
      ASSERT_EQ(t.stages[stage].size(), s.actions[stage].size());
      for (const TimedAction& a : t.stages[stage])
        end[{stage, a.action.chunk, a.action.micro_batch, a.action.kind}] = a.end_s;
    }
    double last = 0;
    for (int stage = 0; stage < s.stages; ++stage) {
      double free = 0;
      for (std::size_t i = 0; i < t.stages[stage].size(); ++i) {
        const TimedAction& a = t.stages[stage][i];
        ASSERT_EQ(a.action, s.actions[stage][i]);
        double begin = free;
        if (const auto from = receives_from(s, stage, a.action)) {
          const double sent = end.at({from->stage, from->chunk, a.action.micro_batch, a.action.kind});
          begin = std::max(begin, sent + (from->stage == stage ? 0 : costs.links[0].latency_s));
        }
        ASSERT_NEAR(a.start_s, begin, 1e-9) << test::name(s);
        free = a.end_s;
      }
      last = std::max(last, free);
    }
    ASSERT_NEAR(t.step_s, last, 1e-9);
  });
}

TEST(Simulate, RefusesCostsOfAnotherPipeline) {
  const Schedule s = make_schedule(ScheduleKind::OneFOneB, 2, 2);
  const Schedule other = make_schedule(ScheduleKind::OneFOneB, 3, 2);
  EXPECT_THROW(simulate(s, uniform_costs(other, kUnit)), Error);
  EXPECT_THROW(run(s, {-1, 1, 1}), Error);
  EXPECT_THROW(run(s, kUnit, {0, 0, 1}), Error);
  Schedule stuck = s;
  std::swap(stuck.actions[0][1], stuck.actions[0][2]);
  stuck.actions[1] = {s.actions[1][0], s.actions[1][2], s.actions[1][1], s.actions[1][3]};
  EXPECT_THROW(run(stuck), Error);
}

}  // namespace
}  // namespace plimsoll
