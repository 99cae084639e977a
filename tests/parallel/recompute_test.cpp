// Recomputation on meshes: the bits of the same mesh without it, in less memory.

#include "tests/support/equivalence.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr std::int64_t kRows = 8, kSteps = 3;

std::vector<LayerRecompute> modes(std::initializer_list<RecomputeMode> of_layers) {
  std::vector<LayerRecompute> layers;
  for (const RecomputeMode mode : of_layers) layers.push_back({mode, {}});
  return layers;
}

class RecomputeOn : public testing::TestWithParam<std::tuple<ModelFamily, Layout>> {};

TEST_P(RecomputeOn, TheSameBits) {
  using enum RecomputeMode;
  const auto& [family, layout] = GetParam();
  ProgramOptions o = four_layer_options(family);
  const RunResult none = train_on(layout, o, kRows, kSteps);
  for (const auto& layers : {modes({Full, Full, Full, Full}), modes({Selective, Selective, Selective, Selective}),
                             modes({Full, None, Selective, Full})}) {
    SCOPED_TRACE(fmt::format("{}, …", to_text(layers.front().mode)));
    o.recompute = layers;
    const RunResult run = train_on(layout, o, kRows, kSteps);
    expect_same_bits(run, none);
    EXPECT_EQ(run.high_water, run.planned);
    EXPECT_EQ(run.allocations, 0);
    for (std::size_t r = 0; r < run.planned.size(); ++r) EXPECT_LT(run.planned[r], none.planned[r]) << "rank " << r;
    expect_same_bits(train_on(layout, o, kRows, kSteps, true), none);  // poisoned
  }
}

std::string layout_name(const testing::TestParamInfo<std::tuple<ModelFamily, Layout>>& info) {
  std::string name =
      (std::get<0>(info.param) == ModelFamily::Gpt2 ? "gpt2_" : "llama_") + name_of(std::get<1>(info.param));
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(
    Meshes, RecomputeOn,
    testing::Combine(testing::Values(ModelFamily::Gpt2, ModelFamily::Llama),
                     testing::Values(Layout{{.tensor = 2}}, Layout{{.tensor = 2}, 0, true},
                                     Layout{.mesh = {.tensor = 2}, .tensor_chunks = 4},
                                     Layout{{.data = 2, .shards = 2}, 0}, Layout{{.data = 2, .shards = 2}, 1},
                                     Layout{{.data = 2, .shards = 2}, 2}, Layout{{.data = 2, .shards = 2}, 3},
                                     Layout{{.data = 2, .tensor = 2, .shards = 2}, 3, true},
                                     Layout{{.pipeline = 2}, 0, false, ScheduleKind::GPipe},
                                     Layout{{.pipeline = 2}, 0, false, ScheduleKind::OneFOneB},
                                     Layout{{.pipeline = 2}, 0, false, ScheduleKind::ZbH1},
                                     Layout{{.pipeline = 2}, 0, false, ScheduleKind::Interleaved, 2},
                                     Layout{{.data = 2, .pipeline = 2, .tensor = 2, .shards = 2}, 1, true})),
    layout_name);

// MLPs in blocks of rows: the same training to rounding, whoever sums over ranks and wherever gradients lie.
TEST_P(RecomputeOn, RowSplitsToRounding) {
  const auto& [family, layout] = GetParam();
  ProgramOptions o = four_layer_options(family);
  o.model.ffn = 320;  // so that the MLP needs most
  const RunResult none = train_on(layout, o, kRows, kSteps);
  o.recompute = modes({RecomputeMode::Full, RecomputeMode::Full, RecomputeMode::Full, RecomputeMode::Full});
  const RunResult full = train_on(layout, o, kRows, kSteps);
  for (LayerRecompute& layer : o.recompute) layer.rows = 8;
  if (layout.schedule == ScheduleKind::ZbH1 || layout.tensor_chunks > 1) {
    o.mesh = layout.mesh;
    o.schedule = layout.schedule;
    o.tensor_chunks = layout.tensor_chunks;
    o.micro_batches = 4;
    EXPECT_THROW(build_programs(o), Error) << "they do not go together";
    return;
  }
  const RunResult run = train_on(layout, o, kRows, kSteps);
  expect_same_training(run, none);
  EXPECT_NEAR(run.losses.front(), none.losses.front(), 1e-6 * none.losses.front());
  EXPECT_NEAR(run.norms.front(), none.norms.front(), 1e-6 * none.norms.front());
  for (std::size_t r = 0; r < run.planned.size(); ++r) EXPECT_LT(run.planned[r], full.planned[r]) << "rank " << r;
  expect_same_bits(train_on(layout, o, kRows, kSteps, true), run);  // poisoned
}

// The slots of a pipeline hold the boundaries: the activations of all micro-batches in flight shrink alike.
TEST(RecomputeInPipelines, SlotsHoldTheBoundaries) {
  for (const ScheduleKind schedule : {ScheduleKind::GPipe, ScheduleKind::OneFOneB}) {
    ProgramOptions o = four_layer_options(ModelFamily::Llama);
    o.mesh.pipeline = 2;
    o.schedule = schedule;
    o.micro_batches = 8;
    const auto slot_bytes = [&] {
      const Programs programs = build_programs(o);
      EXPECT_EQ(check_memory(programs.list(), programs.plan), std::nullopt);
      return programs.plan.program("train").slots.at(0).bytes;
    };
    const std::int64_t none = slot_bytes();
    o.recompute.assign(4, {RecomputeMode::Full, {}});
    // Of two layers: the input of the piece, which is that of the first, and that of the second; tokens; gradients at
    // the ends of the piece, which come and go with the slot.
    const std::int64_t boundary = o.micro_batch * o.sequence * o.model.hidden * 4;
    const std::int64_t full = slot_bytes();
    EXPECT_LE(full, 4 * boundary + kArenaAlignment);
    EXPECT_LT(full, none / 3);
  }
}

// Where weight gradients come later, the chain from the boundary is made for each half; attention, whose input is
// larger than its output, is made once, and the output waits.
TEST(RecomputeInPipelines, SecondCopiesForLaterWeightGradientsWhereTheyHoldLess) {
  ProgramOptions o = four_layer_options(ModelFamily::Gpt2);
  o.mesh.pipeline = 2;
  o.schedule = ScheduleKind::ZbH1;
  o.micro_batches = 8;
  const auto copies = [&](RecomputeMode mode) {
    o.recompute.assign(4, {mode, {}});
    const Programs programs = build_programs(o);
    EXPECT_EQ(check_memory(programs.list(), programs.plan), std::nullopt);
    std::array<int, 2> count{};
    for (const Node& node : programs.graph("train").nodes) {
      if (node.again) ++count[node.late ? 1 : 0];
    }
    return count;
  };
  EXPECT_GT(copies(RecomputeMode::Full)[0], 0);
  EXPECT_GT(copies(RecomputeMode::Full)[1], 0);
  EXPECT_EQ(copies(RecomputeMode::Selective), (std::array<int, 2>{2, 0}));
}

// Stages in the middle that hold as many layers but keep other values have plans of their own.
TEST(RecomputeInPipelines, StagesThatRecomputeOtherLayersAreDistinct) {
  using enum RecomputeMode;
  ProgramOptions o = four_layer_options(ModelFamily::Llama);
  o.mesh.pipeline = 4;
  o.stage_layers = {1, 1, 1, 1};
  EXPECT_EQ(distinct_stages(o), (std::vector<int>{0, 1, 3}));
  o.recompute = modes({Full, Full, Full, Full});
  EXPECT_EQ(distinct_stages(o), (std::vector<int>{0, 1, 3}));
  o.recompute = modes({Full, Full, None, Full});
  EXPECT_EQ(distinct_stages(o), (std::vector<int>{0, 1, 2, 3}));
}

// ZeRO-3 gathers as often as without: what is recomputed uses the gather of backward.
TEST(RecomputeWithZero, UsesTheGathersOfBackward) {
  ProgramOptions o = four_layer_options(ModelFamily::Gpt2);
  o.mesh = {.data = 2, .shards = 2};
  o.zero = 3;
  const auto gathers = [&] {
    const Programs programs = build_programs(o);
    std::int64_t count = 0;
    for (const Node& node : programs.graph("train").nodes) count += node.op == op_id<AllGather> ? 1 : 0;
    return count;
  };
  const std::int64_t none = gathers();
  o.recompute.assign(4, {RecomputeMode::Full, {}});
  EXPECT_EQ(gathers(), none);
}

}  // namespace
}  // namespace plimsoll
