// The whole matrix of layouts: every mesh of at most eight ranks with every schedule, every ZeRO stage that goes with
// it, and sequence parallelism on and off, on shapes that do not divide nicely.

#include "parallel/tensor.hpp"
#include "tests/support/equivalence.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr std::int64_t kSteps = 20;

std::vector<Layout> layouts(const ProgramOptions& o) {
  std::vector<Layout> all;
  for (int tensor = 1; tensor <= 8; ++tensor) {
    for (const bool sequence : {false, true}) {
      if (sequence && tensor == 1) continue;
      if (tensor > 1 && tensor_parallel_fault(o.model, o.sequence, {tensor, 0, sequence})) continue;
      const int copies = TensorParallel{tensor, 0, false}.kv_copies(o.model);
      for (int data = 1; data * tensor <= 8; ++data) {
        for (int zero = 0; zero <= (data > 1 ? 3 : 0); ++zero) {
          all.push_back({{.data = data, .tensor = tensor, .shards = data, .kv_copies = copies}, zero, sequence});
          if (data == 4 && zero > 0)
            all.push_back({{.data = 4, .tensor = tensor, .shards = 2, .kv_copies = copies}, zero, sequence});
        }
      }
    }
  }
  return all;
}

// Data, tensor and sequence parallel stages, without a schedule yet.
std::vector<Layout> pipelines(const ProgramOptions& o) {
  std::vector<Layout> all;
  for (const Layout& stage : layouts(o)) {
    for (int stages = 2; stages * stage.mesh.ranks() <= 8; ++stages) {
      all.push_back(stage);
      all.back().mesh.pipeline = stages;
    }
  }
  return all;
}

class Matrix : public testing::TestWithParam<std::tuple<ModelFamily, DType>> {};

TEST_P(Matrix, EveryLayoutTrainsAsOneRank) {
  const auto [family, dtype] = GetParam();
  const ProgramOptions o = uneven_options(family, dtype, 2);
  std::map<std::int64_t, RunResult> one;  // by rows of a step
  int runs = 0;
  for (const Layout& layout : layouts(o)) {
    SCOPED_TRACE(name_of(layout));
    const std::int64_t rows = 2 * layout.mesh.data;
    if (!one.contains(rows)) one[rows] = train_on({}, o, rows, kSteps);
    expect_same_training(train_on(layout, o, rows, kSteps), one[rows]);
    ++runs;
  }
  EXPECT_GT(runs, 40);
}

// Schedules have each other's bits; the first of them is run twice.
TEST_P(Matrix, EveryPipelineTrainsAsOneRank) {
  const auto [family, dtype] = GetParam();
  ProgramOptions o = uneven_options(family, dtype, 2);
  std::map<std::pair<std::int64_t, std::int64_t>, RunResult> one;  // by layers and rows of a step
  int runs = 0;
  for (const Layout& layout : pipelines(o)) {
    const std::int64_t stages = layout.mesh.pipeline, micro_batches = stages <= 4 ? 2 * stages : stages;
    const std::int64_t rows = micro_batches * layout.mesh.data;
    o.model.layers = 2 * stages;
    auto reference = one.find({o.model.layers, rows});
    if (reference == one.end())
      reference = one.emplace(std::pair(o.model.layers, rows), train_on({}, o, rows, kSteps)).first;
    std::vector<Layout> schedules = every_schedule(layout, o.model.layers);
    ASSERT_EQ(schedules.size(), 4U);
    schedules.push_back(schedules.front());
    std::optional<RunResult> first;
    for (const Layout& scheduled : schedules) {
      SCOPED_TRACE(name_of(scheduled));
      const RunResult run = train_on(scheduled, o, rows, kSteps);
      expect_same_training(run, reference->second);
      if (first) expect_same_bits(run, *first);
      if (!first) first = run;
      ++runs;
    }
  }
  EXPECT_GE(runs, 5 * 18);
}

// Keys of a configuration and a part of what is said about them.
TEST(MatrixOfConfigurations, WhatDoesNotGoTogetherIsRefused) {
  const auto refusal = [](const std::string& model, const std::string& parallel) -> std::string {
    try {
      const Config config =
          parse_config(fmt::format("model: {{{}}}\ndata: {{train: t}}\nparallel: {{{}}}\n", model, parallel), "c", {});
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::Config);
      return error.what();
    }
    return "";
  };
  const std::string layers = "layers: 16, hidden: 24, heads: ";
  for (int stages = 2; stages <= 8; ++stages) {
    for (int zero = 0; zero <= 3; ++zero)
      EXPECT_EQ(refusal(layers + "4", fmt::format("pipeline: {}, zero: {}", stages, zero)), "");
  }
  EXPECT_NE(refusal(layers + "6", "tensor: 4").find("heads 6 is not divisible by tensor 4"), std::string::npos);
  EXPECT_NE(
      refusal(layers + "6, kv_heads: 3, family: llama", "tensor: 2").find("neither of tensor 2 and model.kv_heads 3"),
      std::string::npos);
  EXPECT_NE(refusal(layers + "4", "pipeline: 9, schedule: interleaved").find("9 stages of 2 pieces for 16 layers"),
            std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Models, Matrix,
                         testing::Combine(testing::Values(ModelFamily::Gpt2, ModelFamily::Llama),
                                          testing::Values(DType::f32, DType::f64)),
                         [](const auto& p) {
                           return fmt::format("{}_{}", family_name(std::get<0>(p.param)),
                                              dtype_name(std::get<1>(p.param)));
                         });

}  // namespace
}  // namespace plimsoll
