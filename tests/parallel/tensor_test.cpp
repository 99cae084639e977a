// Tensor and sequence parallelism: the run is that of one rank, on shapes that do not divide nicely.

#include "parallel/tensor.hpp"

#include "tests/support/equivalence.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr std::int64_t kRows = 4, kSteps = 5;

void expect_as_one_rank(const Layout& layout, ProgramOptions o) {
  SCOPED_TRACE(name_of(layout));
  for (const DType dtype : {DType::f32, DType::f64}) {
    o.dtype = dtype;
    const RunResult run = train_on(layout, o, kRows, kSteps);
    expect_same_training(run, train_on({}, o, kRows, kSteps));
    expect_same_bits(train_on(layout, o, kRows, kSteps), run);
  }
}

class Tensor : public testing::TestWithParam<std::tuple<ModelFamily, int, bool>> {};

// The vocabulary of 37 divides by neither; Llama has 2 key/value heads: 4 ranks share them in pairs.
TEST_P(Tensor, TrainsAsOneRank) {
  const auto [family, ranks, sequence] = GetParam();
  const int kv_copies = TensorParallel{ranks, 0, false}.kv_copies(tiny_model(family));
  expect_as_one_rank({{.tensor = ranks, .kv_copies = kv_copies}, 0, sequence},
                     equivalence_options(family, DType::f32, 2));
}

INSTANTIATE_TEST_SUITE_P(Sizes, Tensor,
                         testing::Combine(testing::Values(ModelFamily::Gpt2, ModelFamily::Llama), testing::Values(2, 4),
                                          testing::Bool()),
                         [](const auto& p) {
                           return fmt::format("{}_{}ranks{}", family_name(std::get<0>(p.param)), std::get<1>(p.param),
                                              std::get<2>(p.param) ? "_sequence" : "");
                         });

TEST(TensorWithOthers, ZeroAndReplicas) {
  for (const int zero : {1, 2, 3}) {
    expect_as_one_rank({{.data = 2, .tensor = 2, .shards = 2}, zero, true},
                       equivalence_options(ModelFamily::Llama, DType::f32, 2));
  }
  const ProgramOptions o = equivalence_options(ModelFamily::Gpt2, DType::f32, 1);
  expect_as_one_rank({{.data = 2, .tensor = 2, .shards = 2}, 3, false}, o);
}

// Names of shapes that no longer fit a small string would be allocated.
TEST(TensorWithOthers, LongShapesAllocateNothing) {
  ProgramOptions o = equivalence_options(ModelFamily::Gpt2, DType::f32, 2);
  o.model.hidden = 1024;
  o.model.ffn = 4096;
  o.model.head_dim = 256;
  o.model.layers = 1;
  EXPECT_EQ(train_on({{.tensor = 2}, 0, true}, o, kRows, 2).allocations, 0);
}

TEST(TensorWithOthers, DropoutIsThatOfOneRank) {
  for (const bool sequence : {false, true}) {
    ProgramOptions o = equivalence_options(ModelFamily::Gpt2, DType::f32, 2);
    o.model.dropout = 0.2;
    expect_as_one_rank({{.tensor = 2}, 0, sequence}, o);
  }
}

TEST(TensorWithOthers, HeadNormsAndUntiedHeads) {
  ProgramOptions o = equivalence_options(ModelFamily::Llama, DType::f32, 2);
  o.model.qk_norm = true;
  o.model.tied = false;
  for (const int ranks : {2, 4}) {
    expect_as_one_rank({{.tensor = ranks, .kv_copies = ranks / 2}, 0, ranks == 4}, o);
  }
}

TEST(TensorWithOthers, WhatCannotBeSplitIsNamed) {
  ModelConfig m = tiny_model(ModelFamily::Gpt2);
  m.heads = m.kv_heads = 6;
  EXPECT_NE(tensor_parallel_fault(m, 12, {4, 0, false})->find("6 heads"), std::string::npos);
  m = tiny_model(ModelFamily::Llama);
  m.heads = 6;
  m.kv_heads = 3;
  EXPECT_NE(tensor_parallel_fault(m, 12, {2, 0, false})->find("key/value"), std::string::npos);
  m = tiny_model(ModelFamily::Gpt2);
  EXPECT_NE(tensor_parallel_fault(m, 13, {2, 0, true})->find("13 tokens"), std::string::npos);
  EXPECT_EQ(tensor_parallel_fault(m, 13, {2, 0, false}), std::nullopt);
}

// A layer's matrices, its activations and the vocabulary are divided.
TEST(TensorWithOthers, MemoryShrinks) {
  const ProgramOptions o = equivalence_options(ModelFamily::Gpt2, DType::f32, 2);
  const RunResult one = train_on({}, o, kRows, 2), two = train_on({{.tensor = 2}, 0, true}, o, kRows, 2);
  for (const MemoryClass memory :
       {MemoryClass::Parameters, MemoryClass::Gradients, MemoryClass::Optimizer, MemoryClass::Activations}) {
    const auto m = static_cast<std::size_t>(memory);
    EXPECT_LT(static_cast<double>(two.classes[0][m]), 0.7 * static_cast<double>(one.classes[0][m]))
        << kMemoryClassNames[m];
  }
}

}  // namespace
}  // namespace plimsoll
