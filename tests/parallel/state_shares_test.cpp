// Uneven shares of what ZeRO divides: ranks with other parts of the state train as one rank.

#include "tests/support/equivalence.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr std::int64_t kRows = 8, kSteps = 5;

// Sums are made by the owner of an element in rank order, whoever that is; only the norm adds up other parts, so that
// without clipping uneven and even shares give the same bits.
ProgramOptions without_clipping(ProgramOptions o) {
  o.optimizer.clip = 0;
  return o;
}

void expect_as_one_rank_and_as_even(const Layout& layout, const ProgramOptions& o, std::int64_t rows = kRows) {
  SCOPED_TRACE(name_of(layout));
  const RunResult run = train_on(layout, o, rows, kSteps);
  expect_same_training(run, train_on({}, o, rows, kSteps));
  expect_same_bits(train_on(layout, o, rows, kSteps, true), run);
  Layout even = layout;
  even.state_shares.clear();
  const ProgramOptions unclipped = without_clipping(o);
  const RunResult a = train_on(layout, unclipped, rows, kSteps), b = train_on(even, unclipped, rows, kSteps);
  EXPECT_EQ(a.losses, b.losses);
  EXPECT_EQ(a.final, b.final);
}

class StateShares : public testing::TestWithParam<int> {};

TEST_P(StateShares, TrainAsOneRank) {
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    for (const DType dtype : {DType::f32, DType::f64}) {
      const ProgramOptions o = uneven_options(family, dtype, 2);
      for (const std::vector<std::int64_t>& shares :
           {std::vector<std::int64_t>{3, 1}, {1, 5, 2}, {1, 9, 2, 4}, {1, 100000}}) {
        const int ranks = static_cast<int>(shares.size());
        expect_as_one_rank_and_as_even(
            {.mesh = {.data = ranks, .shards = ranks}, .zero = GetParam(), .state_shares = shares}, o, 2 * ranks);
      }
    }
  }
}

// Every group of neighbours divides the state alike.
TEST_P(StateShares, InsideNodes) {
  const ProgramOptions o = equivalence_options(ModelFamily::Gpt2, DType::f32, 1);
  expect_as_one_rank_and_as_even({.mesh = {.data = 4, .shards = 2}, .zero = GetParam(), .state_shares = {2, 7}}, o);
}

TEST_P(StateShares, WithTensorRanks) {
  const ProgramOptions o = equivalence_options(ModelFamily::Llama, DType::f32, 1);
  expect_as_one_rank_and_as_even(
      {.mesh = {.data = 2, .tensor = 2, .shards = 2}, .zero = GetParam(), .sequence = true, .state_shares = {1, 4}}, o);
}

// The tied embedding has the same shards at both ends.
TEST_P(StateShares, InPipelinesOfEverySchedule) {
  ProgramOptions o = equivalence_options(ModelFamily::Gpt2, DType::f32, 1);
  o.model.layers = 4;
  for (const Layout& layout :
       every_schedule({.mesh = {.data = 2, .pipeline = 2, .shards = 2}, .zero = GetParam(), .state_shares = {5, 2}},
                      o.model.layers))
    expect_as_one_rank_and_as_even(layout, o);
}

INSTANTIATE_TEST_SUITE_P(Stages, StateShares, testing::Values(1, 2, 3),
                         [](const auto& p) { return fmt::format("zero{}", p.param); });

TEST(StateShares, WithMicroBatchesBySpeed) {
  const ProgramOptions o = equivalence_options(ModelFamily::Gpt2, DType::f32, 1);
  expect_as_one_rank_and_as_even(
      {.mesh = {.data = 2, .shards = 2}, .zero = 1, .shares = {5, 3}, .state_shares = {1, 2}}, o);
}

TEST(StateShares, SgdHasOneMomentOrNone) {
  for (const double momentum : {0.9, 0.0}) {
    ProgramOptions o = equivalence_options(ModelFamily::Gpt2, DType::f64, 1);
    o.optimizer.name = OptimizerName::Sgd;
    o.optimizer.momentum = momentum;
    for (const int zero : {1, 3})
      expect_as_one_rank_and_as_even({.mesh = {.data = 3, .shards = 3}, .zero = zero, .state_shares = {1, 0, 3}}, o, 9);
  }
}

TEST(StateShares, AListOfEqualOnesChangesNoBitAndNoByte) {
  const ProgramOptions o = equivalence_options(ModelFamily::Llama, DType::f32, 1);
  for (const int zero : {1, 2, 3}) {
    Layout layout{.mesh = {.data = 4, .shards = 4}, .zero = zero};
    const RunResult even = train_on(layout, o, kRows, kSteps);
    layout.state_shares = {5, 5, 5, 5};
    const RunResult listed = train_on(layout, o, kRows, kSteps);
    expect_same_bits(listed, even);
    EXPECT_EQ(listed.planned, even.planned);
    EXPECT_EQ(listed.sent, even.sent);
  }
}

// What a rank has follows its share, whichever of the classes ZeRO divides.
TEST(StateShares, BytesFollowTheShares) {
  const ProgramOptions o = uneven_options(ModelFamily::Gpt2, DType::f32, 4);
  for (const int zero : {1, 2, 3}) {
    const RunResult run =
        train_on({.mesh = {.data = 2, .shards = 2}, .zero = zero, .state_shares = {3, 1}}, o, kRows, 1);
    const auto bytes = [&](std::size_t rank, MemoryClass memory) {
      return static_cast<double>(run.classes[rank][static_cast<std::size_t>(memory)]);
    };
    EXPECT_NEAR(bytes(0, MemoryClass::Optimizer) / bytes(1, MemoryClass::Optimizer), 3, 0.05);
    if (zero == 3) {
      EXPECT_NEAR(bytes(0, MemoryClass::Parameters) / bytes(1, MemoryClass::Parameters), 3, 0.05);
    }
    if (zero >= 2) {
      EXPECT_GT(bytes(0, MemoryClass::Gradients), bytes(1, MemoryClass::Gradients));
    }
    EXPECT_GT(run.planned[0], run.planned[1]);
  }
}

}  // namespace
}  // namespace plimsoll
