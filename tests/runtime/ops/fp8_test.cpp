// Delayed scaling, and what a graph is told about fp8.

#include "runtime/ops/fp8.hpp"

#include <gtest/gtest.h>

#include <array>
#include <limits>

#include "runtime/ops/registry.hpp"

namespace plimsoll {
namespace {

using History = std::array<float, kFp8History>;

// One tensor of a linear over steps.
struct Tensor {
  Fp8Role role;
  Fp8Scaling scaling{};
  History history{};
  float step(float amax) {
    scaling.amax[static_cast<int>(role)] = amax;
    advance_fp8_scale(scaling, role, history.data());
    EXPECT_EQ(scaling.amax[static_cast<int>(role)], 0.0F);
    return scaling.scale[static_cast<int>(role)];
  }
};

TEST(Fp8Scaling, TheLargestNumberStandsForTheLargestMagnitude) {
  EXPECT_EQ((Tensor{Fp8Role::Input}.step(2)), 224.0F);
  EXPECT_EQ((Tensor{Fp8Role::Weight}.step(7)), 64.0F);
  EXPECT_EQ((Tensor{Fp8Role::Gradient}.step(0.5F)), 114688.0F);
  EXPECT_EQ(fp8_most(Fp8Role::Input), F8E4M3::kMost);
  EXPECT_EQ(fp8_most(Fp8Role::Weight), F8E4M3::kMost);
  EXPECT_EQ(fp8_most(Fp8Role::Gradient), F8E5M2::kMost);
}

// A maximum decides the scale of the next kFp8History steps, and of no later one.
TEST(Fp8Scaling, TheLargestOfTheHistoryDecides) {
  Tensor t{Fp8Role::Input};
  EXPECT_EQ(t.step(448), 1.0F);
  for (int i = 1; i < kFp8History; ++i) EXPECT_EQ(t.step(static_cast<float>(i)), 1.0F) << i;
  EXPECT_EQ(t.step(1), 448.0F / static_cast<float>(kFp8History - 1));
  EXPECT_EQ(t.step(896), 0.5F);
  EXPECT_EQ(t.history[0], 896.0F);
  EXPECT_EQ(t.history[1], 1.0F);
}

TEST(Fp8Scaling, WhatSaysNothingLeavesTheScale) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  for (const float nothing : {0.0F, kInfinity, kNan}) {
    Tensor fresh{Fp8Role::Weight};
    EXPECT_EQ(fresh.step(nothing), 0.0F) << nothing;
    Tensor t{Fp8Role::Weight};
    EXPECT_EQ(t.step(14), 32.0F);
    for (int i = 0; i < 2 * kFp8History; ++i) EXPECT_EQ(t.step(nothing), 32.0F) << nothing;
    EXPECT_EQ(t.history, History{});
  }
}

TEST(Fp8Scaling, ScalesStayFinite) {
  Tensor t{Fp8Role::Gradient};
  const float scale = t.step(std::numeric_limits<float>::denorm_min());
  EXPECT_EQ(scale, std::numeric_limits<float>::max());
  EXPECT_GT(1.0F / scale, 0.0F);
  EXPECT_GT((Tensor{Fp8Role::Input}.step(std::numeric_limits<float>::max())), 0.0F);
}

TEST(Fp8Scaling, TheOtherRolesAreLeftAlone) {
  Tensor t{Fp8Role::Weight};
  t.scaling = {{1, 2, 3}, {4, 5, 6}};
  t.step(7);
  EXPECT_EQ(t.scaling.scale[0], 1.0F);
  EXPECT_EQ(t.scaling.scale[2], 3.0F);
  EXPECT_EQ(t.scaling.amax[0], 4.0F);
  EXPECT_EQ(t.scaling.amax[2], 6.0F);
}

// Before the first step nothing was measured.
TEST(Fp8Scaling, TheFirstStepHasFixedScales) {
  StepInputs inputs;
  inputs.loss_seed = 1.0 / 4096;
  Fp8Scaling s{};
  EXPECT_EQ(fp8_scale(s, Fp8Role::Input, inputs), 1.0F);
  EXPECT_EQ(fp8_scale(s, Fp8Role::Weight, inputs), 64.0F);
  EXPECT_EQ(fp8_scale(s, Fp8Role::Gradient, inputs), 4096.0F);
  s = {{2, 3, 5}, {0, 0, 0}};
  EXPECT_EQ(fp8_scale(s, Fp8Role::Input, inputs), 2.0F);
  EXPECT_EQ(fp8_scale(s, Fp8Role::Weight, inputs), 3.0F);
  EXPECT_EQ(fp8_scale(s, Fp8Role::Gradient, inputs), 5.0F);
}

TEST(LinearFp8, TheWorkspaceHoldsItsOperands) {
  SlotSpecs s;
  s.set(LinearFp8::kX, {{4, 64, 128}, DType::bf16});
  s.set(LinearFp8::kX8, {{4, 64, 128}, DType::f8e4m3});
  s.set(LinearFp8::kWeight, {{384, 128}, DType::bf16});
  s.set(LinearFp8::kScaling, {{2, kFp8Roles}, DType::f32});
  LinearFp8::infer({}, s);
  EXPECT_EQ(s[LinearFp8::kY], (TensorSpec{{4, 64, 384}, DType::bf16}));
  const std::int64_t x = 4 * 64 * 128, y = 4 * 64 * 384, weight = 384 * 128;
  const auto bytes = [&](Phase phase, int threads) { return LinearFp8::workspace_bytes({}, s, phase, threads); };
  EXPECT_EQ(bytes(Phase::Forward, 1), 2 * (x + weight));
  EXPECT_EQ(bytes(Phase::InputGrad, 1), 2 * (y + weight));
  EXPECT_EQ(bytes(Phase::WeightGrad, 1), 2 * (y + x));
  const std::int64_t library = kFp8Alignment + product_workspace_bytes(kDeviceThreads);
  EXPECT_EQ(bytes(Phase::Forward, kDeviceThreads), weight + library);
  EXPECT_EQ(bytes(Phase::InputGrad, kDeviceThreads), y + weight + library);
  EXPECT_EQ(bytes(Phase::WeightGrad, kDeviceThreads), y + x + library);
}

TEST(LinearFp8, RefusesWhatDoesNotFit) {
  const TensorSpec x{{16, 32}, DType::bf16}, x8{{16, 32}, DType::f8e4m3}, scaling{{2, kFp8Roles}, DType::f32};
  const auto infer = [&](const TensorSpec& copy, const TensorSpec& weight, const TensorSpec& state) {
    SlotSpecs s;
    s.set(LinearFp8::kX, x);
    s.set(LinearFp8::kX8, copy);
    s.set(LinearFp8::kWeight, weight);
    s.set(LinearFp8::kScaling, state);
    LinearFp8::infer({}, s);
  };
  const TensorSpec weight{{48, 32}, DType::bf16};
  EXPECT_NO_THROW(infer(x8, weight, scaling));
  EXPECT_THROW(infer(x, weight, scaling), Error);
  EXPECT_THROW(infer({{16, 32}, DType::f8e5m2}, weight, scaling), Error);
  EXPECT_THROW(infer(x8, {{32, 48}, DType::bf16}, scaling), Error);
  EXPECT_THROW(infer(x8, {{48, 32}, DType::f32}, scaling), Error);
  EXPECT_THROW(infer(x8, weight, {{6}, DType::f32}), Error);
}

}  // namespace
}  // namespace plimsoll
