// ZeRO: what ranks divide and what they send, and that the run is the same.

#include "tests/support/equivalence.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr std::int64_t kRows = 8, kSteps = 6;

class Zero : public testing::TestWithParam<std::tuple<ModelFamily, int, int, int>> {};

TEST_P(Zero, TrainsAsOneRank) {
  const auto [family, ranks, shards, zero] = GetParam();
  for (const DType dtype : {DType::f32, DType::f64}) {
    const ProgramOptions o = equivalence_options(family, dtype, 1);
    const Layout layout{{.data = ranks, .shards = shards}, zero};
    const RunResult run = train_on(layout, o, kRows, kSteps);
    expect_same_training(run, train_on({}, o, kRows, kSteps));
    expect_same_bits(train_on(layout, o, kRows, kSteps), run);
  }
}

INSTANTIATE_TEST_SUITE_P(Stages, Zero,
                         testing::Combine(testing::Values(ModelFamily::Gpt2, ModelFamily::Llama), testing::Values(2, 4),
                                          testing::Values(2), testing::Values(0, 1, 2, 3)),
                         [](const auto& p) {
                           return fmt::format("{}_{}ranks_zero{}", family_name(std::get<0>(p.param)),
                                              std::get<1>(p.param), std::get<3>(p.param));
                         });

std::int64_t bytes_of(const RunResult& run, MemoryClass memory) {
  return run.classes[0][static_cast<std::size_t>(memory)];
}

// 4 bytes each of parameters, gradients and 8 of moments an element; a stage divides one more of them.
TEST(Zero, ClassesShrinkByTheNumberOfShards) {
  ProgramOptions o = equivalence_options(ModelFamily::Gpt2, DType::f32, 1);
  o.model.layers = 8;  // of which the gradients of two are whole at a time: one is made while the other is summed
  constexpr int kRanks = 4;
  const auto run = [&](int zero) { return train_on({{.data = kRanks, .shards = kRanks}, zero}, o, kRows, 2); };
  const RunResult whole = run(0), one = run(1), two = run(2), three = run(3);
  const auto padded = [](std::int64_t bytes) { return bytes + bytes / 10; };  // units are padded to shards · 64 bytes
  const std::int64_t parameters = bytes_of(whole, MemoryClass::Parameters),
                     moments = bytes_of(whole, MemoryClass::Optimizer);
  EXPECT_EQ(moments, 2 * parameters);
  EXPECT_LE(bytes_of(one, MemoryClass::Optimizer), padded(moments / kRanks));
  EXPECT_GE(bytes_of(one, MemoryClass::Gradients), parameters);
  EXPECT_LE(bytes_of(three, MemoryClass::Parameters), padded(parameters / kRanks));
  EXPECT_LT(bytes_of(two, MemoryClass::Gradients), bytes_of(one, MemoryClass::Gradients));
}

}  // namespace
}  // namespace plimsoll
