#include "runtime/plan/schedule_check.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "tests/runtime/plan/schedules.hpp"

namespace plimsoll {
namespace {

std::string verdict(const Schedule& s) { return verify(s).value_or("valid"); }

Schedule one_f_one_b() { return make_schedule(ScheduleKind::OneFOneB, 3, 4); }  // stage 1: F0 F1 B0 F2 B1 F3 B2 B3

TEST(ScheduleCheck, BackwardBeforeItsForward) {
  Schedule s = one_f_one_b();
  std::swap(s.actions[2][2], s.actions[2][3]);
  EXPECT_EQ(verdict(s), "stage 2, action 2 (backward of micro-batch 1, chunk 0): runs before its forward");
}

TEST(ScheduleCheck, RunsTwiceOrNever) {
  Schedule s = one_f_one_b();
  s.actions[1].insert(s.actions[1].begin() + 3, s.actions[1][2]);
  EXPECT_EQ(verdict(s), "stage 1, action 3 (backward of micro-batch 0, chunk 0): runs a second time");
  s = one_f_one_b();
  s.actions[1].pop_back();
  EXPECT_EQ(verdict(s), "stage 1, action 7 (input gradient of micro-batch 3, chunk 0): never runs");
  s = make_schedule(ScheduleKind::ZbH1, 3, 4);
  s.actions[1].pop_back();
  EXPECT_EQ(verdict(s), "stage 1, action 11 (weight gradient of micro-batch 3, chunk 0): never runs");
  s.actions[0].clear();
  EXPECT_EQ(verdict(s), "stage 0, action 0 (forward of micro-batch 0, chunk 0): never runs");
}

TEST(ScheduleCheck, GradientsOutOfOrder) {
  Schedule s = make_schedule(ScheduleKind::GPipe, 2, 3);
  std::reverse(s.actions[1].begin() + 3, s.actions[1].end());  // last in, first out
  EXPECT_EQ(verdict(s), "stage 1, action 3 (backward of micro-batch 2, chunk 0): out of order: micro-batch 0 is next");
  s = make_schedule(ScheduleKind::ZbH1, 3, 4);  // stage 2: F0 I0 F1 I1 F2 I2 W0 F3 I3 W1 W2 W3
  std::swap(s.actions[2][9], s.actions[2][10]);
  EXPECT_EQ(verdict(s),
            "stage 2, action 9 (weight gradient of micro-batch 2, chunk 0): out of order: micro-batch 1 is next");
}

TEST(ScheduleCheck, WeightGradientBeforeInputGradient) {
  Schedule s = make_schedule(ScheduleKind::ZbH1, 2, 2);  // stage 0: F0 F1 I0 W0 I1 W1
  std::swap(s.actions[0][2], s.actions[0][3]);
  EXPECT_EQ(verdict(s),
            "stage 0, action 2 (weight gradient of micro-batch 0, chunk 0): runs before its input gradient");
}

TEST(ScheduleCheck, SlotReusedWhileLive) {
  Schedule s = one_f_one_b();
  for (Action& a : s.actions[1]) a.slot = 0;
  EXPECT_EQ(verdict(s), "stage 1, action 1 (forward of micro-batch 1, chunk 0): slot 0 still holds micro-batch 0");
  // Input gradient alone does not free the slot: stage 1 is F0 F1 I0 F2 I1 W0 F3 I2 W1 I3 W2 W3.
  s = make_schedule(ScheduleKind::ZbH1, 3, 4);
  for (Action& a : s.actions[1]) a.slot = a.micro_batch % 2;
  EXPECT_EQ(verdict(s), "stage 1, action 3 (forward of micro-batch 2, chunk 0): slot 0 still holds micro-batch 0");
}

TEST(ScheduleCheck, SlotsThatDoNotMatch) {
  Schedule s = one_f_one_b();
  s.actions[0][3].slot = 1;
  EXPECT_EQ(verdict(s),
            "stage 0, action 3 (backward of micro-batch 0, chunk 0): reads slot 1, but its forward wrote slot 0");
  s = one_f_one_b();
  s.slots[0][0] = 2;
  EXPECT_EQ(verdict(s), "stage 0, action 2 (forward of micro-batch 2, chunk 0): slot 2 of 2");
  s.slots[0][0] = 4;
  EXPECT_EQ(verdict(s), "stage 0, action 8 (end): chunk 0 has 4 slots, and at most 3 micro-batches are in flight");
}

TEST(ScheduleCheck, OutOfRange) {
  Schedule s = one_f_one_b();
  s.actions[0][0].micro_batch = 4;
  EXPECT_EQ(verdict(s), "stage 0, action 0 (forward of micro-batch 4, chunk 0): there are 4 micro-batches");
  s = one_f_one_b();
  s.actions[1][0].chunk = 1;
  EXPECT_EQ(verdict(s), "stage 1, action 0 (forward of micro-batch 0, chunk 1): there are 1 chunks");
  s = one_f_one_b();
  s.actions.pop_back();
  EXPECT_EQ(verdict(s), "lists of 2 stages and slots of 3, where there are 3");
  s = one_f_one_b();
  s.slots[1].push_back(1);
  EXPECT_EQ(verdict(s), "stage 1: slots of 2 chunks, where there are 1");
  s.stages = 0;
  EXPECT_EQ(verdict(s), "a size is below 1");
}

TEST(ScheduleCheck, MessagesOutOfOrder) {
  Schedule s = make_schedule(ScheduleKind::GPipe, 2, 3);
  std::swap(s.actions[1][0], s.actions[1][1]);
  EXPECT_EQ(
      verdict(s),
      "stage 1, action 0 (forward of micro-batch 1, chunk 0): stage 0 sends that of micro-batch 0, chunk 0 first");
}

TEST(ScheduleCheck, StagesThatWaitForEachOther) {
  Schedule s = make_schedule(ScheduleKind::GPipe, 2, 2);
  std::swap(s.actions[0][1], s.actions[0][2]);  // F0 B0 F1 B1, while the other stage wants both forwards first
  for (Action& a : s.actions[0]) a.slot = 0;
  s.slots[0][0] = 1;
  EXPECT_EQ(verdict(s), "stage 0, action 1 (backward of micro-batch 0, chunk 0): waits for stage 1 for ever");
  const std::vector<int> visited = walk(s, [](int, int) {});
  EXPECT_EQ(visited, (std::vector<int>{1, 1}));
}

// Whatever single action is lost, doubled or given another slot, and whichever gradients change places.
TEST(ScheduleCheck, CatchesEverySingleFault) {
  int faults = 0;
  const auto expect_caught = [&](const Schedule& s) {
    EXPECT_TRUE(verify(s).has_value()) << test::name(s);
    ++faults;
  };
  test::for_each_schedule(4, 6, [&](const Schedule& valid) {
    for (int stage = 0; stage < valid.stages; ++stage) {
      const auto& actions = valid.actions[stage];
      for (std::size_t i = 0; i < actions.size(); ++i) {
        Schedule s = valid;
        s.actions[stage].erase(s.actions[stage].begin() + i);
        expect_caught(s);
        s = valid;
        s.actions[stage].insert(s.actions[stage].begin() + i, actions[i]);
        expect_caught(s);
        for (int slot = -1; slot <= valid.slots[stage][actions[i].chunk]; ++slot) {
          if (slot == actions[i].slot) continue;
          s = valid;
          s.actions[stage][i].slot = slot;
          expect_caught(s);
        }
        for (std::size_t k = 0; k < i; ++k) {
          const bool same = actions[i].kind == actions[k].kind && actions[i].chunk == actions[k].chunk;
          if (!same || actions[i].kind == ActionKind::Forward) continue;
          s = valid;
          std::swap(s.actions[stage][i], s.actions[stage][k]);
          expect_caught(s);
        }
      }
    }
  });
  EXPECT_GT(faults, 10'000);
}

TEST(ScheduleCheck, WalkRespectsListsAndMessages) {
  test::for_each_schedule(5, 10, [&](const Schedule& s) {
    std::vector<int> next(s.stages, 0);
    std::vector<Action> log;
    std::vector<int> stage_of;
    walk(s, [&](int stage, int index) {
      ASSERT_EQ(index, next[stage]++);
      const Action& a = s.actions[stage][index];
      if (const auto from = receives_from(s, stage, a)) {
        bool sent = false;
        for (std::size_t i = 0; i < log.size(); ++i) {
          sent |= stage_of[i] == from->stage && log[i].kind == a.kind && log[i].chunk == from->chunk &&
                  log[i].micro_batch == a.micro_batch;
        }
        ASSERT_TRUE(sent) << test::name(s) << " stage " << stage << " action " << index;
      }
      log.push_back(a);
      stage_of.push_back(stage);
    });
    for (int stage = 0; stage < s.stages; ++stage) {
      ASSERT_EQ(next[stage], static_cast<int>(s.actions[stage].size())) << test::name(s);
    }
  });
}

}  // namespace
}  // namespace plimsoll
