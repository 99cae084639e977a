// ZeRO 2 and 3 in pipelines: each action of a schedule scatters the gradients that it makes, and gathers the parameters
// that it uses; nothing of the training changes.

#include "tests/support/equivalence.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr std::int64_t kRows = 8, kSteps = 4;

// Schedules have each other's bits.
void expect_every_schedule(const Layout& layout, const ProgramOptions& o) {
  const RunResult one = train_on({}, o, kRows, kSteps);
  std::optional<RunResult> first;
  for (const Layout& scheduled : every_schedule(layout, o.model.layers)) {
    SCOPED_TRACE(name_of(scheduled));
    const RunResult run = train_on(scheduled, o, kRows, kSteps);
    expect_same_training(run, one);
    if (first) expect_same_bits(run, *first);
    if (!first) first = run;
  }
}

class ZeroInPipelines : public testing::TestWithParam<int> {};

TEST_P(ZeroInPipelines, TrainAsOneRankUnderEverySchedule) {
  expect_every_schedule({{.data = 2, .pipeline = 2, .shards = 2}, GetParam()},
                        uneven_options(ModelFamily::Llama, DType::f64, 4));
}

// Both ends have a copy of the embedding, the first one beside the positions, the last one beside a norm.
TEST_P(ZeroInPipelines, SumTheTwoCopiesOfATiedEmbedding) {
  expect_every_schedule({{.data = 2, .pipeline = 2, .shards = 2}, GetParam()},
                        uneven_options(ModelFamily::Gpt2, DType::f64, 4));
}

TEST_P(ZeroInPipelines, TrainAsOneRankOnOtherMeshes) {
  const ProgramOptions o = uneven_options(ModelFamily::Gpt2, DType::f64, 4);
  const RunResult one = train_on({}, o, kRows, kSteps);
  for (const Mesh& mesh : {Mesh{.data = 2, .pipeline = 2, .tensor = 2, .shards = 2},
                           Mesh{.data = 4, .pipeline = 2, .shards = 2}, Mesh{.data = 2, .pipeline = 4, .shards = 2}}) {
    const Layout layout{.mesh = mesh, .zero = GetParam(), .sequence = mesh.tensor > 1};
    SCOPED_TRACE(name_of(layout));
    expect_same_training(train_on(layout, o, kRows, kSteps), one);
  }
}

// Backward gathers once more what it makes again, and memory that is left is left to others.
TEST_P(ZeroInPipelines, RecomputeAndPoisonChangeNoBit) {
  ProgramOptions o = uneven_options(ModelFamily::Gpt2, DType::f32, 4);
  for (const ScheduleKind schedule : {ScheduleKind::OneFOneB, ScheduleKind::ZbH1}) {
    Layout layout{{.data = 2, .pipeline = 2, .shards = 2}, GetParam()};
    layout.schedule = schedule;
    layout.prefetch = 2;
    o.recompute.clear();
    const RunResult kept = train_on(layout, o, kRows, kSteps);
    expect_same_bits(train_on(layout, o, kRows, kSteps, true), kept);
    o.recompute.assign(4, {RecomputeMode::Full, {}});
    expect_same_bits(train_on(layout, o, kRows, kSteps), kept);
  }
}

// Of what a stage of many layers has, each replica keeps its shard.
TEST_P(ZeroInPipelines, DivideWhatReplicasOfAStageRepeat) {
  ProgramOptions o = uneven_options(ModelFamily::Llama, DType::f32, 32);
  o.sequence = 8;
  o.mesh = {.data = 2, .pipeline = 2, .shards = 2};
  o.micro_batches = 2;
  for (o.rank = 0; o.rank < 4; o.rank += 2) {
    o.zero = GetParam() - 1;
    const std::int64_t less = build_programs(o).plan.total_bytes;
    o.zero = GetParam();
    EXPECT_LT(build_programs(o).plan.total_bytes, less) << "rank " << o.rank;
  }
}

INSTANTIATE_TEST_SUITE_P(Stages, ZeroInPipelines, testing::Values(2, 3));

}  // namespace
}  // namespace plimsoll
