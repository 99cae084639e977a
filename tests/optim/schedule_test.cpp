#include "optim/schedule.hpp"

#include <gtest/gtest.h>

namespace plimsoll {
namespace {

TEST(Schedule, CosineWithWarmUpMatchesTheReferenceCurve) {
  const ScheduleConfig s{ScheduleName::Cosine, 4, 2e-4, std::nullopt};
  EXPECT_DOUBLE_EQ(learning_rate(s, 2e-3, 0, 24), 5e-4);
  EXPECT_DOUBLE_EQ(learning_rate(s, 2e-3, 3, 24), 2e-3);
  EXPECT_DOUBLE_EQ(learning_rate(s, 2e-3, 4, 24), 2e-3);
  EXPECT_NEAR(learning_rate(s, 2e-3, 5, 24), 0.001988919506535624, 1e-15);
  EXPECT_NEAR(learning_rate(s, 2e-3, 23, 24), 0.00021108049346437612, 1e-15);
}

TEST(Schedule, LinearFallsToTheMinimum) {
  const ScheduleConfig s{ScheduleName::Linear, 0, 0.0, std::nullopt};
  EXPECT_DOUBLE_EQ(learning_rate(s, 1.0, 0, 10), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(s, 1.0, 5, 10), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(s, 1.0, 10, 10), 0.0);
}

TEST(Schedule, WsdStaysThenDecays) {
  const ScheduleConfig s{ScheduleName::Wsd, 2, 0.1, 4};
  EXPECT_DOUBLE_EQ(learning_rate(s, 1.0, 0, 20), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(s, 1.0, 16, 20), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(s, 1.0, 18, 20), 0.55);
}

// The reference curves have it so: step `steps` would have the minimum, the last step is the one before.
TEST(Schedule, TheMinimumLiesBehindTheLastStep) {
  for (const ScheduleName name : {ScheduleName::Linear, ScheduleName::Cosine, ScheduleName::Wsd}) {
    const ScheduleConfig s{name, 3, 1e-4, std::nullopt};
    EXPECT_GT(learning_rate(s, 1e-3, 11, 12), 1e-4) << static_cast<int>(name);
    EXPECT_DOUBLE_EQ(learning_rate(s, 1e-3, 12, 12), 1e-4) << static_cast<int>(name);
  }
}

TEST(Schedule, ConstantIsConstantAfterWarmUp) {
  const ScheduleConfig s{ScheduleName::Constant, 1, 0.0, std::nullopt};
  EXPECT_DOUBLE_EQ(learning_rate(s, 3.0, 0, 5), 3.0);
  EXPECT_DOUBLE_EQ(learning_rate(s, 3.0, 4, 5), 3.0);
}

}  // namespace
}  // namespace plimsoll
