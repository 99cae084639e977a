// Linears in fp8 on meshes: the training of one rank, the arenas as planned, recomputation bit for bit.

#include "tests/support/equivalence.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr std::int64_t kRows = 8, kSteps = 4;

ProgramOptions fp8_options(ModelFamily family, DType dtype = DType::bf16) {
  ProgramOptions o = equivalence_options(family, dtype, 1);
  o.fp8 = true;
  return o;
}

// The arithmetic of a layout alone, without the roundings of bf16 between that flip some of fp8: the same scales, the
// same codes, the numbers of one rank to the last digits.
class Fp8On : public testing::TestWithParam<std::tuple<ModelFamily, Layout>> {};

TEST_P(Fp8On, TrainsAsOneRank) {
  const auto& [family, layout] = GetParam();
  const ProgramOptions o = fp8_options(family);
  const RunResult run = train_on(layout, o, kRows, kSteps);
  expect_same_training(run, train_on({}, o, kRows, kSteps));
  expect_same_bits(train_on(layout, o, kRows, kSteps, true), run);  // poisoned
}

TEST_P(Fp8On, QuantisesAsOneRank) {
  const auto& [family, layout] = GetParam();
  const ProgramOptions o = fp8_options(family, DType::f64);
  expect_same_training(train_on(layout, o, kRows, kSteps), train_on({}, o, kRows, kSteps));
}

TEST_P(Fp8On, RecomputesTheSameBits) {
  using enum RecomputeMode;
  const auto& [family, layout] = GetParam();
  ProgramOptions o = fp8_options(family);
  const RunResult none = train_on(layout, o, kRows, kSteps);
  for (const RecomputeMode mode : {Full, Selective, Offload}) {
    SCOPED_TRACE(to_text(mode));
    o.recompute.assign(static_cast<std::size_t>(o.model.layers), {mode, {}});
    const RunResult run = train_on(layout, o, kRows, kSteps);
    expect_same_bits(run, none);
    EXPECT_EQ(run.high_water, run.planned);
    EXPECT_EQ(run.host_high_water, run.host_planned);
  }
}

std::vector<Layout> layouts() {
  std::vector<Layout> all{{}, {{.data = 2}}, {{.tensor = 2}}, {{.tensor = 2}, 0, true}};
  for (const int zero : {1, 2, 3}) all.push_back({{.data = 2, .shards = 2}, zero});
  all.push_back({{.data = 2, .tensor = 2, .shards = 2}, 3, true});
  all.push_back({{.data = 2, .pipeline = 2, .shards = 2}, 1});
  for (const Layout& layout : every_schedule({{.pipeline = 2}}, 2)) all.push_back(layout);
  Layout parts{{.pipeline = 2}};
  parts.pipeline_chunks = 2;
  all.push_back(parts);
  return all;
}

std::string layout_name(const testing::TestParamInfo<std::tuple<ModelFamily, Layout>>& info) {
  std::string name = fmt::format("{}_{}", family_name(std::get<0>(info.param)), name_of(std::get<1>(info.param)));
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Meshes, Fp8On,
                         testing::Combine(testing::Values(ModelFamily::Gpt2, ModelFamily::Llama),
                                          testing::ValuesIn(layouts())),
                         layout_name);

}  // namespace
}  // namespace plimsoll
