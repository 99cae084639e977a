// Pipelines: every schedule trains as one rank, with the bits of every other schedule, in the memory that was planned.

#include "parallel/pipeline.hpp"

#include "runtime/exec/messages.hpp"
#include "tests/support/equivalence.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr std::int64_t kRows = 8, kSteps = 5;

ProgramOptions options_of(ModelFamily family, bool tied, DType dtype) {
  ProgramOptions o = equivalence_options(family, dtype, 1);
  o.model.layers = 4;
  o.model.tied = tied;
  return o;
}

// All schedules of a mesh train as one rank, and with the same bits.
void expect_as_one_rank(const Layout& layout, const ProgramOptions& o) {
  const RunResult one = train_on({}, o, kRows, kSteps);
  std::optional<RunResult> first;
  for (const Layout& scheduled : every_schedule(layout, o.model.layers)) {
    SCOPED_TRACE(name_of(scheduled));
    const RunResult run = train_on(scheduled, o, kRows, kSteps);
    expect_same_training(run, one);
    // Replicas add their sums in another order, and so do the two copies of a tied embedding.
    if (layout.mesh.ranks() == layout.mesh.pipeline && !o.model.tied) expect_same_bits(run, one);
    if (first) expect_same_bits(run, *first);
    if (!first) first = run;
  }
}

class Pipeline : public testing::TestWithParam<std::tuple<ModelFamily, bool, std::pair<int, int>>> {};

TEST_P(Pipeline, TrainsAsOneRank) {
  const auto [family, tied, sizes] = GetParam();
  const auto [stages, data] = sizes;
  const Layout layout{{.data = data, .pipeline = stages, .shards = data}, data > 1 ? 1 : 0};
  for (const DType dtype : {DType::f32, DType::f64}) expect_as_one_rank(layout, options_of(family, tied, dtype));
}

// Larger meshes: matrix_slow_test.cpp.
INSTANTIATE_TEST_SUITE_P(Stages, Pipeline,
                         testing::Combine(testing::Values(ModelFamily::Gpt2, ModelFamily::Llama), testing::Bool(),
                                          testing::Values(std::pair(2, 1), std::pair(4, 1), std::pair(2, 2))),
                         [](const auto& p) {
                           return fmt::format("{}_{}_{}stages_data{}", family_name(std::get<0>(p.param)),
                                              std::get<1>(p.param) ? "tied" : "untied", std::get<2>(p.param).first,
                                              std::get<2>(p.param).second);
                         });

TEST(PipelineWithOthers, TensorParallelStages) {
  expect_as_one_rank({{.pipeline = 2, .tensor = 2}, 0, true}, options_of(ModelFamily::Gpt2, true, DType::f64));
}

// Where the layers are cut changes no bit either.
TEST(PipelineWithOthers, UnevenCuts) {
  ProgramOptions o = options_of(ModelFamily::Gpt2, true, DType::f32);
  o.model.layers = 5;
  o.model.vocabulary = 1009;
  ProgramOptions planned = o;
  planned.mesh.pipeline = 2;
  EXPECT_EQ(build_programs(planned).cuts, (std::vector<int>{0, 4})) << "the head costs more than three layers";
  const RunResult one = train_on({}, o, kRows, kSteps), by_cost = train_on({{.pipeline = 2}}, o, kRows, kSteps);
  const auto expect_same = [&](const Layout& layout) {
    SCOPED_TRACE(name_of(layout));
    const RunResult run = train_on(layout, o, kRows, kSteps);
    expect_same_training(run, one);
    expect_same_bits(run, by_cost);
    EXPECT_NE(run.planned, by_cost.planned) << "other layers on the stages";
  };
  for (const ScheduleKind kind : {ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1}) {
    expect_same({{.pipeline = 2}, 0, false, kind, 1, {2, 3}});
    expect_same({{.pipeline = 4}, 0, false, kind, 1, {1, 1, 2, 1}});
  }
  expect_same({{.pipeline = 2}, 0, false, ScheduleKind::Interleaved, 2, {2, 1, 1, 1}});
}

// Memory is NaN until it is written and after its last reader: what a stage still needs, or never got, would show.
TEST(PipelineWithOthers, PoisonChangesNothing) {
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    const ProgramOptions o = options_of(family, true, DType::f32);
    for (const Layout& layout : every_schedule({{.data = 2, .pipeline = 2, .shards = 2}, 1}, o.model.layers)) {
      SCOPED_TRACE(name_of(layout));
      expect_same_bits(train_on(layout, o, kRows, 2, true), train_on(layout, o, kRows, 2));
    }
  }
}

TEST(PipelineWithOthers, TheSameLayoutGivesTheSameBits) {
  const ProgramOptions o = options_of(ModelFamily::Llama, false, DType::f32);
  for (const Layout& layout : every_schedule({{.data = 2, .pipeline = 2, .shards = 2}, 1}, o.model.layers))
    expect_same_bits(train_on(layout, o, kRows, kSteps), train_on(layout, o, kRows, kSteps));
}

TEST(PipelineWithOthers, DropoutIsThatOfOneRank) {
  ProgramOptions o = options_of(ModelFamily::Gpt2, true, DType::f64);
  o.model.dropout = 0.2;
  expect_as_one_rank({{.pipeline = 2}}, o);
}

// Plans of every stage, which the independent checker replays action by action.
TEST(PipelinePlan, HoldsForEveryScheduleAndStage) {
  for (const int stages : {2, 4}) {
    for (const Layout& layout : every_schedule({{.pipeline = stages}}, 4)) {
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
  for (const Layout& layout : every_schedule({{.pipeline = 2}}, 4)) EXPECT_NEAR(evaluate(layout), one, 1e-10 * one);
}

// Outputs go in parts of rows, each behind the product of its rows; the rows are those of whole products here.
TEST(PipelineParts, GiveTheBitsOfWholeMessages) {
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    ProgramOptions o = equivalence_options(family, DType::f64, 1);
    o.model.layers = 4;
    for (const Mesh& mesh : {Mesh{.pipeline = 2}, Mesh{.data = 2, .pipeline = 2, .shards = 2}}) {
      for (Layout layout : every_schedule({.mesh = mesh, .zero = mesh.data > 1 ? 3 : 0}, o.model.layers)) {
        const RunResult whole = train_on(layout, o, kRows, kSteps);
        for (const int parts : {2, 3, 12}) {
          layout.pipeline_chunks = parts;
          SCOPED_TRACE(name_of(layout));
          const RunResult run = train_on(layout, o, kRows, kSteps, parts == 3);
          expect_same_bits(run, whole);
          EXPECT_EQ(run.high_water, run.planned);
          EXPECT_EQ(run.sent, whole.sent);
          EXPECT_EQ(run.allocations, 0);
        }
      }
    }
  }
}

// Each part is listed, and leaves when its rows are made: behind its sum, before the product of the next rows.
TEST(PipelineParts, LeaveWhenTheirRowsAreMade) {
  ProgramOptions o = equivalence_options(ModelFamily::Llama, DType::f32, 1);
  o.mesh.pipeline = 2;
  o.micro_batches = 3;
  o.pipeline_chunks = 4;
  const Programs programs = build_programs(o);
  const Graph& graph = programs.graph("train");
  const std::vector<std::size_t> made = output_parts(graph, 0);
  ASSERT_EQ(made.size(), 4U);
  for (std::size_t i = 0; i < made.size(); ++i) {
    EXPECT_EQ(graph.nodes[made[i]].op, op_id<Add>);
    EXPECT_EQ(graph.nodes[made[i] - 1].op, op_id<Linear>);
    EXPECT_EQ(made[i], made[0] + 2 * i);
  }
  std::int64_t outputs = 0, bytes = 0;
  for (const StageMessage& m : stage_messages(graph, *programs.schedule, 0, true)) {
    EXPECT_EQ(m.parts, m.kind == MessageKind::Output ? 4 : 1);
    if (m.kind != MessageKind::Output) continue;
    EXPECT_EQ(m.part, outputs++ % 4);
    bytes += m.bytes();
  }
  EXPECT_EQ(outputs, 3 * 4);
  EXPECT_EQ(bytes, 3 * o.micro_batch * o.sequence * o.model.hidden * 4);
}

TEST(PipelineParts, ThatCannotBeCutAreFaults) {
  const ModelConfig model = equivalence_options(ModelFamily::Gpt2, DType::f32, 1).model;
  EXPECT_EQ(pipeline_chunks_fault(model, 1, 12, 4), std::nullopt);
  EXPECT_EQ(pipeline_chunks_fault(model, 2, 12, 1), std::nullopt);
  EXPECT_NE(pipeline_chunks_fault(model, 1, 12, 5)->find("do not divide"), std::string::npos);
  EXPECT_NE(pipeline_chunks_fault(model, 2, 12, 4)->find("tensor"), std::string::npos);
  ModelConfig dropped = model;
  dropped.dropout = 0.1;
  EXPECT_NE(pipeline_chunks_fault(dropped, 1, 12, 4)->find("dropout"), std::string::npos);
}

}  // namespace
}  // namespace plimsoll
