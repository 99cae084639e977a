// Offload on meshes: the bits of the same mesh without it, with both arenas as planned.

#include "tests/support/equivalence.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr std::int64_t kRows = 8, kSteps = 3;

class OffloadOn : public testing::TestWithParam<std::tuple<ModelFamily, Layout>> {};

TEST_P(OffloadOn, TheSameBits) {
  using enum RecomputeMode;
  const auto& [family, layout] = GetParam();
  ProgramOptions o = four_layer_options(family);
  const RunResult none = train_on(layout, o, kRows, kSteps);
  using Modes = std::vector<LayerRecompute>;
  for (const Modes& layers :
       {Modes(4, {Offload, {}}), Modes{{Offload, {}}, {Full, {}}, {Selective, {}}, {Offload, {}}}}) {
    SCOPED_TRACE(fmt::format("offload, {}, …", to_text(layers[1].mode)));
    o.recompute = layers;
    const RunResult run = train_on(layout, o, kRows, kSteps);
    expect_same_bits(run, none);
    EXPECT_EQ(run.high_water, run.planned);
    EXPECT_EQ(run.host_high_water, run.host_planned);
    EXPECT_EQ(run.allocations, 0);
    for (std::size_t r = 0; r < run.planned.size(); ++r) {
      EXPECT_LT(run.planned[r], none.planned[r]) << "rank " << r;
      EXPECT_GT(run.host_planned[r], 0) << "rank " << r;
    }
    expect_same_bits(train_on(layout, o, kRows, kSteps, true), none);  // poisoned
  }
}

std::string layout_name(const testing::TestParamInfo<std::tuple<ModelFamily, Layout>>& info) {
  std::string name = family_name(std::get<0>(info.param)) + "_" + name_of(std::get<1>(info.param));
  std::replace(name.begin(), name.end(), '-', '_');
  return name + (std::get<1>(info.param).overlap ? "" : "_in_turns");
}

INSTANTIATE_TEST_SUITE_P(
    Meshes, OffloadOn,
    testing::Combine(testing::Values(ModelFamily::Gpt2, ModelFamily::Llama),
                     testing::Values(Layout{{.tensor = 2}}, Layout{{.tensor = 2}, 0, true},
                                     Layout{.mesh = {.tensor = 2}, .overlap = false},
                                     Layout{.mesh = {.tensor = 2}, .tensor_chunks = 4},
                                     Layout{{.data = 2, .shards = 2}, 3},
                                     Layout{{.pipeline = 2}, 0, false, ScheduleKind::GPipe},
                                     Layout{{.pipeline = 2}, 0, false, ScheduleKind::OneFOneB},
                                     Layout{{.pipeline = 2}, 0, false, ScheduleKind::ZbH1},
                                     Layout{{.pipeline = 2}, 0, false, ScheduleKind::Interleaved, 2},
                                     Layout{{.data = 2, .pipeline = 2, .tensor = 2, .shards = 2}, 1, true})),
    layout_name);

// A slot of the device keeps the ends of the piece; what the layers make waits in as many slots of the host.
TEST(OffloadInPipelines, SlotsOfTheHostHoldTheActivations) {
  for (const ScheduleKind schedule : {ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1}) {
    ProgramOptions o = four_layer_options(ModelFamily::Llama);
    o.mesh.pipeline = 2;
    o.schedule = schedule;
    o.micro_batches = 8;
    const Programs none = build_programs(o);
    o.recompute.assign(4, {RecomputeMode::Offload, {}});
    const Programs sent = build_programs(o);
    EXPECT_EQ(check_memory(sent.list(), sent.plan), std::nullopt);
    const ProgramLayout &before = none.plan.program("train"), &after = sent.plan.program("train");
    ASSERT_EQ(after.host_slots.size(), 1U);
    EXPECT_EQ(after.host_slots[0].count, before.slots[0].count);
    std::int64_t bytes = 0;
    for (const Value& v : sent.graph("train").values) bytes += v.host ? v.spec.bytes() : 0;
    EXPECT_EQ(after.offloaded_bytes, after.host_slots[0].count * bytes);
    // Gradients that wait for the second half of backward lie in the slot, before over activations that nobody reads.
    EXPECT_LE(after.slots[0].bytes,
              before.slots[0].bytes - (schedule == ScheduleKind::ZbH1 ? bytes / 4 : bytes - kArenaAlignment));
    EXPECT_EQ(sent.plan.class_bytes[static_cast<std::size_t>(MemoryClass::Offloaded)], after.offloaded_bytes);
  }
}

// A value that both halves of backward read comes back for each, and is in no slot of the device in between.
TEST(OffloadInPipelines, ComesBackForEachHalfOfBackward) {
  ProgramOptions o = four_layer_options(ModelFamily::Gpt2);
  o.mesh.pipeline = 2;
  o.schedule = ScheduleKind::ZbH1;
  o.micro_batches = 8;
  o.recompute.assign(4, {RecomputeMode::Offload, {}});
  const Programs programs = build_programs(o);
  const Graph& graph = programs.graph("train");
  std::map<ValueId, int> returns;
  for (const Node& node : graph.nodes) {
    if (node.op == op_id<FromHost>) returns[node.value[HostCopy::kX]] += node.late ? 10 : 1;
  }
  std::set<int> halves;
  for (const auto& [value, times] : returns) halves.insert(times);
  EXPECT_EQ(halves, (std::set<int>{1, 10, 11}));
}

}  // namespace
}  // namespace plimsoll
