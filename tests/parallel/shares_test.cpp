// Uneven shares: replicas with other numbers of micro-batches train as one rank.

#include "tests/support/equivalence.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr std::int64_t kSteps = 5;

std::int64_t rows_of(const Layout& layout, const ProgramOptions& o) {
  std::int64_t micro_batches = 0;
  for (const std::int64_t share : layout.shares) micro_batches += share;
  return micro_batches * o.micro_batch;
}

void expect_as_one_rank(const Layout& layout, const ProgramOptions& o) {
  SCOPED_TRACE(name_of(layout));
  const RunResult run = train_on(layout, o, rows_of(layout, o), kSteps);
  expect_same_training(run, train_on({}, o, rows_of(layout, o), kSteps));
  expect_same_bits(train_on(layout, o, rows_of(layout, o), kSteps), run);
}

// With one micro-batch beside several, a replica begins and ends its sums in the same one.
TEST(Shares, ReplicasTrainAsOneRank) {
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    for (const DType dtype : {DType::f32, DType::f64}) {
      ProgramOptions o = equivalence_options(family, dtype, 2);
      if (family == ModelFamily::Gpt2) o.model.dropout = 0.2;
      for (const int zero : {0, 1}) {
        expect_as_one_rank({.mesh = {.data = 2, .shards = zero > 0 ? 2 : 1}, .zero = zero, .shares = {3, 1}}, o);
        expect_as_one_rank({.mesh = {.data = 3, .shards = zero > 0 ? 3 : 1}, .zero = zero, .shares = {1, 2, 4}}, o);
      }
      expect_as_one_rank({.mesh = {.data = 4, .shards = 2}, .zero = 1, .shares = {1, 3, 2, 1}}, o);
    }
  }
}

TEST(Shares, WithTensorParallelRanks) {
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    const ProgramOptions o = equivalence_options(family, DType::f64, 1);
    expect_as_one_rank({.mesh = {.data = 2, .tensor = 2}, .sequence = true, .shares = {2, 5}}, o);
    expect_as_one_rank({.mesh = {.data = 2, .tensor = 2, .shards = 2}, .zero = 1, .shares = {4, 1}}, o);
  }
}

// In a pipeline a replica with fewer micro-batches has fewer in flight, and another plan.
TEST(Shares, PipelinesOfEverySchedule) {
  ProgramOptions o = equivalence_options(ModelFamily::Gpt2, DType::f64, 1);
  o.model.layers = 4;
  std::optional<RunResult> first;
  const RunResult one = train_on({}, o, 8, kSteps);
  for (const int zero : {0, 1}) {
    const Layout even{.mesh = {.data = 2, .pipeline = 2, .shards = zero > 0 ? 2 : 1}, .zero = zero, .shares = {2, 6}};
    for (const Layout& layout : every_schedule(even, o.model.layers)) {
      SCOPED_TRACE(name_of(layout));
      const RunResult run = train_on(layout, o, 8, kSteps);
      expect_same_training(run, one);
      if (first && zero == 0) expect_same_bits(run, *first);
      if (!first) first = run;
      // All of a replica are in flight at the first stage of GPipe.
      if (layout.schedule == ScheduleKind::GPipe) {
        EXPECT_LT(run.planned[0], run.planned[1]);
      }
    }
  }
}

TEST(Shares, AListOfEvenSharesChangesNoBit) {
  const ProgramOptions o = equivalence_options(ModelFamily::Llama, DType::f32, 2);
  expect_same_bits(train_on({.mesh = {.data = 2}, .shares = {2, 2}}, o, 8, kSteps),
                   train_on({.mesh = {.data = 2}}, o, 8, kSteps));
}

// Micro-batches that are timed before the first step leave nothing behind.
TEST(Shares, RehearsalsLeaveNothingBehind) {
  for (const auto& run : {std::pair{1, false}, std::pair{2, false}, std::pair{1, true}, std::pair{2, true}}) {
    const int stages = run.first;
    const bool fp8 = run.second;
    const Mesh mesh{.data = 2, .pipeline = stages};
    std::array<std::vector<double>, 2> losses;
    for (const bool rehearsed : {false, true}) {
      on_mesh(mesh, [&](int rank, const Groups& groups) {
        ProgramOptions o = equivalence_options(ModelFamily::Gpt2, fp8 ? DType::bf16 : DType::f32, 1);
        o.fp8 = fp8;
        o.model.dropout = 0.2;
        o.mesh = mesh;
        o.rank = rank;
        set_shares(o, {1, 3}, 0);
        EngineOptions options;
        for (const auto& [axis, group] : groups) options.groups[axis] = &group;
        Engine engine(build_programs(o), options);
        engine.initialise(1);
        const TinyBatch batch = tiny_batch(o, 7, 0, 1);
        for (int i = 0; rehearsed && i < 3; ++i) engine.rehearse({batch.tokens, batch.targets, 5});
        const int replica = coordinates(mesh, rank).data;
        for (std::int64_t step = 0; step < kSteps; ++step) {
          const StepResult s = tiny_step(engine, o, step, replica == 0 ? 0 : 1, replica == 0 ? 1 : 3, 4);
          if (rank == 0) losses[rehearsed ? 1 : 0].push_back(s.loss() + s.grad_norm);
        }
        EXPECT_EQ(engine.arena().high_water(), engine.programs().plan.total_bytes);
      });
    }
    ASSERT_EQ(losses[0].size(), static_cast<std::size_t>(kSteps));
    EXPECT_EQ(losses[0], losses[1]) << stages << " stages" << (fp8 ? ", fp8" : "");
  }
}

}  // namespace
}  // namespace plimsoll
