// Pipelines: every schedule trains as one rank, with the bits of every other schedule, in the memory that was planned.

#include "tests/parallel/equivalence.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr std::int64_t kRows = 8, kSteps = 5;

ProgramOptions options_of(ModelFamily family, bool tied, DType dtype) {
  ProgramOptions o = tiny_options(family);
  o.model.layers = 4;
  o.model.tied = tied;
  o.micro_batch = 1;
  o.dtype = dtype;
  o.evaluate = true;
  return o;
}

std::vector<Layout> schedules_of(const Mesh& mesh, int zero) {
  std::vector<Layout> all{{mesh, zero, false, ScheduleKind::GPipe},
                          {mesh, zero, false, ScheduleKind::OneFOneB},
                          {mesh, zero, false, ScheduleKind::ZbH1}};
  if (mesh.pipeline == 2) all.push_back({mesh, zero, false, ScheduleKind::Interleaved, 2});
  return all;
}

class Pipeline : public testing::TestWithParam<std::tuple<ModelFamily, bool, int, int, int>> {};

TEST_P(Pipeline, TrainsAsOneRank) {
  const auto [family, tied, stages, data, zero] = GetParam();
  for (const DType dtype : {DType::f32, DType::f64}) {
    const ProgramOptions o = options_of(family, tied, dtype);
    const RunResult one = train_on({}, o, kRows, kSteps);
    std::vector<std::string> names;
    for (const ModelTensor& t : build_programs(o).tensors) names.push_back(t.name);
    std::optional<RunResult> first;
    for (const Layout& layout : schedules_of({.data = data, .pipeline = stages, .shards = data}, zero)) {
      SCOPED_TRACE(name_of(layout));
      const RunResult run = train_on(layout, o, kRows, kSteps);
      expect_same_training(run, one, names, dtype == DType::f64 ? 1e-10 : 1e-5);
      if (!first) first = run;
      if (layout.chunks > 1) continue;  // other cuts, so another place of the sums at them
      EXPECT_EQ(run.final, first->final) << "all schedules give the same bits";
      EXPECT_EQ(run.losses, first->losses);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Stages, Pipeline,
                         testing::Combine(testing::Values(ModelFamily::Gpt2, ModelFamily::Llama), testing::Bool(),
                                          testing::Values(2, 4), testing::Values(1, 2), testing::Values(0, 1)),
                         [](const auto& p) {
                           return fmt::format("{}_{}_{}stages_data{}_zero{}",
                                              std::get<0>(p.param) == ModelFamily::Gpt2 ? "gpt2" : "llama",
                                              std::get<1>(p.param) ? "tied" : "untied", std::get<2>(p.param),
                                              std::get<3>(p.param), std::get<4>(p.param));
                         });

TEST(PipelineWithOthers, TensorParallelStages) {
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    for (const bool sequence : {false, true}) {
      const ProgramOptions o = options_of(family, true, DType::f64);
      const RunResult one = train_on({}, o, kRows, kSteps);
      std::vector<std::string> names;
      for (const ModelTensor& t : build_programs(o).tensors) names.push_back(t.name);
      const Mesh mesh{.data = 2, .pipeline = 2, .tensor = 2, .shards = 2};
      for (Layout layout : schedules_of(mesh, 1)) {
        layout.sequence = sequence;
        SCOPED_TRACE(name_of(layout));
        expect_same_training(train_on(layout, o, kRows, kSteps), one, names, 1e-10);
      }
    }
  }
}

TEST(PipelineWithOthers, DropoutIsThatOfOneRank) {
  ProgramOptions o = options_of(ModelFamily::Gpt2, true, DType::f64);
  o.model.dropout = 0.2;
  const RunResult one = train_on({}, o, kRows, kSteps);
  std::vector<std::string> names;
  for (const ModelTensor& t : build_programs(o).tensors) names.push_back(t.name);
  for (const Layout& layout : schedules_of({.pipeline = 2}, 0)) {
    SCOPED_TRACE(name_of(layout));
    expect_same_training(train_on(layout, o, kRows, kSteps), one, names, 1e-10);
  }
}

// Plans of every stage, which the independent checker replays action by action.
TEST(PipelinePlan, HoldsForEveryScheduleAndStage) {
  for (const int stages : {2, 4}) {
    for (const Layout& layout : schedules_of({.pipeline = stages}, 0)) {
      for (int rank = 0; rank < stages; ++rank) {
        SCOPED_TRACE(fmt::format("{}, rank {}", name_of(layout), rank));
        ProgramOptions o = options_of(ModelFamily::Gpt2, true, DType::f32);
        o.mesh = layout.mesh;
        o.rank = rank;
        o.schedule = layout.schedule;
        o.chunks = layout.chunks;
        o.micro_batches = 6;
        const Programs programs = build_programs(o);
        EXPECT_EQ(check_memory(programs.list(), programs.plan), std::nullopt);
        std::int64_t sum = programs.plan.padding_bytes;
        for (const std::int64_t bytes : programs.plan.class_bytes) sum += bytes;
        EXPECT_EQ(sum, programs.plan.total_bytes);
        EXPECT_GE(programs.plan.padding_bytes, 0);
      }
    }
  }
}

TEST(PipelinePlan, SlotsOf1F1B) {
  for (const int stages : {2, 4}) {
    for (const int micro_batches : {1, 2, 3, 8}) {
      for (int rank = 0; rank < stages; ++rank) {
        ProgramOptions o = options_of(ModelFamily::Llama, false, DType::f32);
        o.mesh.pipeline = stages;
        o.rank = rank;
        o.micro_batches = micro_batches;
        const Programs programs = build_programs(o);
        const std::vector<SlotRegion>& slots = programs.plan.program("train").slots;
        const int expected = std::min(micro_batches, stages - rank);
        EXPECT_EQ(slots.empty() ? 1 : slots[0].count, expected) << rank << " of " << stages;
      }
    }
  }
}

// A plan that gives two micro-batches in flight one slot is refused.
TEST(PipelinePlan, CheckerSeesSlotsThatMeet) {
  ProgramOptions o = options_of(ModelFamily::Gpt2, true, DType::f32);
  o.mesh.pipeline = 2;
  o.micro_batches = 4;
  Programs programs = build_programs(o);
  for (std::int64_t& stride : programs.plan.programs[0].value_stride) stride /= 2;
  EXPECT_NE(check_memory(programs.list(), programs.plan), std::nullopt);
}

// Forward through the stages: the loss is the last one's.
TEST(PipelineWithOthers, EvaluatesAsOneRank) {
  const auto evaluate = [](const Layout& layout) {
    double total = 0;
    std::mutex mutex;
    on_mesh(layout.mesh, [&](int rank, const Groups& groups) {
      ProgramOptions o = options_of(ModelFamily::Gpt2, true, DType::f64);
      o.mesh = layout.mesh;
      o.rank = rank;
      o.schedule = layout.schedule;
      o.chunks = layout.chunks;
      o.micro_batches = 4;
      EngineOptions options;
      for (const auto& [axis, group] : groups) options.groups[axis] = &group;
      Engine engine(build_programs(o), options);
      engine.initialise(1);
      double sum = 0, count = 0;
      for (int m = 0; m < 3; ++m) {
        const TinyBatch batch = tiny_batch(o, 7, m, 1);
        engine.evaluate_micro_batch(batch.tokens, batch.targets, sum, count);
      }
      const double mean = groups.find("world")->second.sum(sum) / groups.find("world")->second.sum(count);
      const std::lock_guard lock(mutex);
      total = mean;
    });
    return total;
  };
  const double one = evaluate({});
  for (const Layout& layout : schedules_of({.pipeline = 2}, 0)) EXPECT_NEAR(evaluate(layout), one, 1e-10 * one);
}

}  // namespace
}  // namespace plimsoll
