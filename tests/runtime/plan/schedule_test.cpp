#include "runtime/plan/schedule.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "runtime/core/error.hpp"
#include "runtime/plan/schedule_check.hpp"
#include "tests/runtime/plan/schedules.hpp"

namespace plimsoll {
namespace {

std::string refusal(ScheduleKind kind, int stages, int micro_batches, int chunks) {
  try {
    make_schedule(kind, stages, micro_batches, chunks);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::Config);
    return e.what();
  }
  return "accepted";
}

// "F0 F1 B0 …", with "F0.1" for chunk 1.
std::string listing(const std::vector<Action>& actions) {
  std::string text;
  for (const Action& a : actions) {
    if (!text.empty()) text += ' ';
    text += std::map<ActionKind, char>{
        {ActionKind::Forward, 'F'},
        {ActionKind::Backward, 'B'},
        {ActionKind::InputGrad, 'I'},
        {ActionKind::WeightGrad,
         'W'}}.at(a.kind);
    text += std::to_string(a.micro_batch);
    if (a.chunk > 0) text += "." + std::to_string(a.chunk);
  }
  return text;
}

// Over all chunks of a stage at one time.
int most_in_flight(const Schedule& s, int stage) {
  int now = 0;
  int most = 0;
  for (const Action& a : s.actions[stage]) {
    if (a.kind == ActionKind::Forward) most = std::max(most, ++now);
    if (a.kind == ActionKind::Backward || a.kind == ActionKind::WeightGrad) --now;
  }
  return most;
}

TEST(Schedule, ListsOfTheFourKinds) {
  const Schedule gpipe = make_schedule(ScheduleKind::GPipe, 2, 3);
  EXPECT_EQ(listing(gpipe.actions[0]), "F0 F1 F2 B0 B1 B2");
  EXPECT_EQ(gpipe.actions[0], gpipe.actions[1]);
  const Schedule one = make_schedule(ScheduleKind::OneFOneB, 3, 4);
  EXPECT_EQ(listing(one.actions[0]), "F0 F1 F2 B0 F3 B1 B2 B3");
  EXPECT_EQ(listing(one.actions[1]), "F0 F1 B0 F2 B1 F3 B2 B3");
  EXPECT_EQ(listing(one.actions[2]), "F0 B0 F1 B1 F2 B2 F3 B3");
  const Schedule zero = make_schedule(ScheduleKind::ZbH1, 3, 4);
  EXPECT_EQ(listing(zero.actions[0]), "F0 F1 F2 I0 W0 F3 I1 W1 I2 W2 I3 W3");
  EXPECT_EQ(listing(zero.actions[1]), "F0 F1 I0 F2 I1 W0 F3 I2 W1 I3 W2 W3");
  EXPECT_EQ(listing(zero.actions[2]), "F0 I0 F1 I1 F2 I2 W0 F3 I3 W1 W2 W3");
  const Schedule inter = make_schedule(ScheduleKind::Interleaved, 2, 4, 2);
  EXPECT_EQ(listing(inter.actions[0]), "F0 F1 F0.1 F1.1 F2 B0.1 F3 B1.1 F2.1 B0 F3.1 B1 B2.1 B3.1 B2 B3");
  EXPECT_EQ(listing(inter.actions[1]), "F0 F1 F0.1 B0.1 F1.1 B1.1 F2 B0 F3 B1 F2.1 B2.1 F3.1 B3.1 B2 B3");
}

TEST(Schedule, EverySizeIsValid) {
  int checked = 0;
  test::for_each_schedule(9, 20, [&](const Schedule& s) {
    ASSERT_EQ(verify(s).value_or("valid"), "valid") << test::name(s);
    ++checked;
  });
  EXPECT_GT(checked, 600);
}

TEST(Schedule, LargeSizesAreValid) {
  for (const auto& [kind, chunks] : {std::pair{ScheduleKind::GPipe, 1},
                                     {ScheduleKind::OneFOneB, 1},
                                     {ScheduleKind::Interleaved, 4},
                                     {ScheduleKind::ZbH1, 1}}) {
    EXPECT_EQ(verify(make_schedule(kind, 64, 256, chunks)).value_or("valid"), "valid") << to_text(kind);
  }
}

TEST(Schedule, HoldsThePublishedNumberOfSlots) {
  test::for_each_schedule(9, 20, [&](const Schedule& s) {
    const int p = s.stages;
    const int m = s.micro_batches;
    for (int stage = 0; stage < p; ++stage) {
      int all = 0;
      for (const int slots : s.slots[stage]) all += slots;
      switch (s.kind) {
        case ScheduleKind::GPipe: EXPECT_EQ(all, m) << test::name(s); break;
        case ScheduleKind::OneFOneB: EXPECT_EQ(all, std::min(m, p - stage)) << test::name(s); break;
        case ScheduleKind::ZbH1: EXPECT_EQ(all, std::min(m, p)) << test::name(s); break;
        case ScheduleKind::Interleaved: EXPECT_GE(all, most_in_flight(s, stage)) << test::name(s); break;
      }
      const int ahead = std::min(m * s.chunks, 2 * (p - 1 - stage) + (s.chunks - 1) * p + 1);
      EXPECT_EQ(most_in_flight(s, stage), s.kind == ScheduleKind::Interleaved ? ahead : all) << test::name(s);
    }
  });
}

TEST(Schedule, AddsGradientsInTheSameOrderInEveryKind) {
  test::for_each_schedule(6, 12, [&](const Schedule& s) {
    for (const auto& actions : s.actions) {
      std::vector<int> next(s.chunks, 0);
      for (const Action& a : actions) {
        if (a.kind == ActionKind::Backward || a.kind == ActionKind::WeightGrad) {
          ASSERT_EQ(a.micro_batch, next[a.chunk]++) << test::name(s);
        }
      }
    }
  });
}

TEST(Schedule, PiecesAreChainedThroughTheStages) {
  const Schedule s = make_schedule(ScheduleKind::Interleaved, 3, 3, 2);
  EXPECT_EQ(receives_from(s, 0, {ActionKind::Forward, 0, 0, 0}), std::nullopt);
  EXPECT_EQ(receives_from(s, 0, {ActionKind::Forward, 1, 0, 0}), (PipelinePiece{2, 0}));
  EXPECT_EQ(sends_to(s, 2, {ActionKind::Forward, 0, 0, 0}), (PipelinePiece{0, 1}));
  EXPECT_EQ(sends_to(s, 2, {ActionKind::Forward, 1, 0, 0}), std::nullopt);
  EXPECT_EQ(receives_from(s, 2, {ActionKind::Backward, 1, 0, 0}), std::nullopt);
  EXPECT_EQ(receives_from(s, 2, {ActionKind::Backward, 0, 0, 0}), (PipelinePiece{0, 1}));
  EXPECT_EQ(sends_to(s, 1, {ActionKind::InputGrad, 1, 0, 0}), (PipelinePiece{0, 1}));
  EXPECT_EQ(sends_to(s, 1, {ActionKind::WeightGrad, 1, 0, 0}), std::nullopt);
  EXPECT_EQ(receives_from(s, 1, {ActionKind::WeightGrad, 1, 0, 0}), std::nullopt);
  EXPECT_EQ(piece_index(3, 2, 1), 5);
}

TEST(Schedule, RefusesWhatItCannotHonour) {
  EXPECT_EQ(refusal(ScheduleKind::Interleaved, 4, 6, 2),
            "schedule interleaved needs micro-batches that the stages divide: 6 micro-batches over 4 stages");
  EXPECT_EQ(refusal(ScheduleKind::Interleaved, 4, 8, 1),
            "schedule interleaved needs at least two chunks per stage; 1f1b has one");
  EXPECT_EQ(refusal(ScheduleKind::ZbH1, 4, 8, 2),
            "schedule zb-h1 has one chunk per stage, not 2: only interleaved has several");
  EXPECT_EQ(refusal(ScheduleKind::OneFOneB, 0, 8, 1),
            "a pipeline schedule needs at least one stage, micro-batch and chunk, not 0, 8 and 1");
  EXPECT_EQ(refusal(ScheduleKind::OneFOneB, 2, 0, 1),
            "a pipeline schedule needs at least one stage, micro-batch and chunk, not 2, 0 and 1");
}

}  // namespace
}  // namespace plimsoll
