#include "optim/loss_scale.hpp"

#include <gtest/gtest.h>

namespace plimsoll {
namespace {

TEST(LossScale, OnlyF16HasOne) {
  EXPECT_EQ(first_loss_scale(DType::f16, {}), (LossScale{65536, 0}));
  EXPECT_EQ(first_loss_scale(DType::f16, {.initial = 128}), (LossScale{128, 0}));
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    EXPECT_FALSE(has_loss_scale(dtype));
    EXPECT_EQ(first_loss_scale(dtype, {.initial = 128}), (LossScale{1, 0}));
  }
}

TEST(LossScale, DoublesAfterTwoThousandAppliedStepsInARow) {
  LossScale scale = first_loss_scale(DType::f16, {});
  for (int step = 0; step < 1999; ++step) scale = after_step(scale, true, {});
  EXPECT_EQ(scale, (LossScale{65536, 1999}));
  EXPECT_EQ(after_step(scale, true, {}), (LossScale{131072, 0}));
  EXPECT_EQ(after_step(scale, false, {}), (LossScale{32768, 0}));
}

TEST(LossScale, DoublesAfterTheWindowOfItsConfiguration) {
  const LossScaleConfig config{.initial = 4, .window = 2};
  LossScale scale = first_loss_scale(DType::f16, config);
  for (const double expected : {4, 8, 8, 16}) {
    scale = after_step(scale, true, config);
    EXPECT_EQ(scale.scale, expected);
  }
}

TEST(LossScale, HalvesButNotBelowOne) {
  LossScale scale = first_loss_scale(DType::f16, {});
  for (int step = 0; step < 16; ++step) scale = after_step(scale, false, {});
  EXPECT_EQ(scale, (LossScale{1, 0}));
  EXPECT_EQ(after_step(scale, false, {}), (LossScale{1, 0}));
}

}  // namespace
}  // namespace plimsoll
