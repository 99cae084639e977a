// ZeRO: what ranks divide and what they send, and that the run is the same.

#include "tests/support/equivalence.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr std::int64_t kRows = 8, kSteps = 6;

class Zero : public testing::TestWithParam<std::tuple<ModelFamily, int, int, int>> {};

TEST_P(Zero, TrainsAsOneRank) {
  const auto [family, ranks, shards, zero] = GetParam();
  for (const DType dtype : {DType::f32, DType::f64}) {
    const ProgramOptions o = equivalence_options(family, dtype, 1);
    const Layout layout{{.data = ranks, .shards = shards}, zero};
    const RunResult run = train_on(layout, o, kRows, kSteps);
    expect_same_training(run, train_on({}, o, kRows, kSteps));
    expect_same_bits(train_on(layout, o, kRows, kSteps), run);
  }
}

INSTANTIATE_TEST_SUITE_P(Stages, Zero,
                         testing::Combine(testing::Values(ModelFamily::Gpt2, ModelFamily::Llama), testing::Values(2, 4),
                                          testing::Values(2), testing::Values(0, 1, 2, 3)),
                         [](const auto& p) {
                           return fmt::format("{}_{}ranks_zero{}", family_name(std::get<0>(p.param)),
                                              std::get<1>(p.param), std::get<3>(p.param));
                         });

std::int64_t bytes_of(const RunResult& run, MemoryClass memory) {
  return run.classes[0][static_cast<std::size_t>(memory)];
}

// 4 bytes each of parameters, gradients and 8 of moments an element; a stage divides one more of them.
TEST(Zero, ClassesShrinkByTheNumberOfShards) {
  ProgramOptions o = equivalence_options(ModelFamily::Gpt2, DType::f32, 1);
  o.model.layers = 8;  // of which the gradients of two are whole at a time: one is made while the other is summed
  constexpr int kRanks = 4;
  const auto run = [&](int zero) { return train_on({{.data = kRanks, .shards = kRanks}, zero}, o, kRows, 2); };
  const RunResult whole = run(0), one = run(1), two = run(2), three = run(3);
  const auto padded = [](std::int64_t bytes) { return bytes + bytes / 10; };  // units are padded to shards · 64 bytes
  const std::int64_t parameters = bytes_of(whole, MemoryClass::Parameters),
                     moments = bytes_of(whole, MemoryClass::Optimizer);
  EXPECT_EQ(moments, 2 * parameters);
  EXPECT_LE(bytes_of(one, MemoryClass::Optimizer), padded(moments / kRanks));
  EXPECT_GE(bytes_of(one, MemoryClass::Gradients), parameters);
  EXPECT_LE(bytes_of(three, MemoryClass::Parameters), padded(parameters / kRanks));
  EXPECT_LT(bytes_of(two, MemoryClass::Gradients), bytes_of(one, MemoryClass::Gradients));
}

// Sums inside nodes of `shards` ranks, then over nodes: other sums than over all ranks at once, the same run.
TEST(HierarchicalSums, TrainAsOneRank) {
  for (const auto& [family, mesh] : {std::pair{ModelFamily::Gpt2, Mesh{.data = 4, .shards = 2}},
                                     {ModelFamily::Llama, Mesh{.data = 4, .tensor = 2, .shards = 2}},
                                     {ModelFamily::Gpt2, Mesh{.data = 4, .pipeline = 2, .shards = 2}},
                                     {ModelFamily::Llama, Mesh{.data = 8, .shards = 4}}}) {
    ProgramOptions o = equivalence_options(family, DType::f32, 1);
    o.bucket_bytes = 8192;  // several
    const Layout layout{.mesh = mesh, .hierarchical = true};
    SCOPED_TRACE(name_of(layout));
    const RunResult run = train_on(layout, o, kRows, kSteps);
    expect_same_training(run, train_on({}, o, kRows, kSteps));
    expect_same_bits(train_on(layout, o, kRows, kSteps), run);
    EXPECT_EQ(train_on(layout, o, kRows, kSteps, true).final, run.final) << "poisoned";
  }
}

// A node sends a bucket once over the slow link, however many ranks it has.
TEST(HierarchicalSums, LessGoesBetweenNodes) {
  const ProgramOptions o = equivalence_options(ModelFamily::Gpt2, DType::f32, 1);
  const Mesh mesh{.data = 4, .shards = 2};
  const RunResult flat = train_on({.mesh = mesh}, o, kRows, 2);
  const RunResult by_nodes = train_on({.mesh = mesh, .hierarchical = true}, o, kRows, 2);
  const std::int64_t bytes = bytes_of(flat, MemoryClass::Gradients) * 2;  // of both steps
  const std::int64_t losses = flat.sent.at("data") - bytes * 2 * 3 / 4;
  EXPECT_EQ(by_nodes.sent.at("data"), losses);
  EXPECT_EQ(by_nodes.sent.at("shard"), bytes) << "half of it there, half of it back";
  EXPECT_EQ(by_nodes.sent.at("replica"), bytes / 2) << "a half, summed over two nodes";
}

// When gathers begin changes no bit, and each takes the memory of its buffer.
TEST(Prefetch, DistancesGiveTheSameBits) {
  ProgramOptions o = equivalence_options(ModelFamily::Llama, DType::f32, 1);
  o.model.layers = 5;
  Layout layout{.mesh = {.data = 2, .shards = 2}, .zero = 3};
  const RunResult one = train_on(layout, o, kRows, kSteps);
  std::int64_t last = 0, first = 0;
  for (const int distance : {0, 1, 2, 4, 50}) {
    layout.prefetch = distance;
    SCOPED_TRACE(name_of(layout));
    const RunResult run = train_on(layout, o, kRows, kSteps, distance == 4);
    expect_same_bits(run, one);
    EXPECT_EQ(run.high_water, run.planned);
    EXPECT_EQ(run.sent, one.sent);
    EXPECT_GE(run.planned.front(), last) << distance;
    last = run.planned.front();
    if (distance == 0) first = last;
  }
  EXPECT_GT(last, first);
}

// A gather stands before the use that is so many before its own, never in another section.
TEST(Prefetch, GathersStandWhereTheDistanceSays) {
  ProgramOptions o = equivalence_options(ModelFamily::Gpt2, DType::f32, 1);
  o.model.layers = 6;
  o.mesh = {.data = 2, .shards = 2};
  o.zero = 3;
  for (const int distance : {0, 1, 3}) {
    o.prefetch = distance;
    const Programs programs = build_programs(o);
    const Graph& graph = programs.graph("train");
    int checked = 0;
    for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
      const Node& gather = graph.nodes[n];
      if (gather.op != op_id<AllGather> || gather.layer < 0 || graph.section(n) != Graph::Section::Forward) continue;
      std::size_t compute = n;
      while (graph.nodes[compute].stream == StreamKind::Communication) ++compute;
      const int beside = graph.nodes[compute].layer;  // -1: the embedding
      EXPECT_EQ(beside, std::max(-1, gather.layer - distance)) << "layer " << gather.layer;
      ++checked;
    }
    EXPECT_EQ(checked, 6);
  }
}

std::int64_t gathers_of(const ProgramOptions& o, OpId op) {
  const Programs programs = build_programs(o);
  const auto& nodes = programs.graph("train").nodes;
  return std::count_if(nodes.begin(), nodes.end(), [op](const Node& node) { return node.op == op; });
}

// Units are gathered with their neighbours: the same shards, sums and norms.
TEST(JoinedGathers, GiveTheBitsOfUnits) {
  for (const auto& [family, mesh] : {std::pair{ModelFamily::Llama, Mesh{.data = 2, .shards = 2}},
                                     {ModelFamily::Gpt2, Mesh{.data = 4, .shards = 4}},
                                     {ModelFamily::Gpt2, Mesh{.data = 4, .shards = 2}},
                                     {ModelFamily::Llama, Mesh{.data = 2, .tensor = 2, .shards = 2}},
                                     {ModelFamily::Gpt2, Mesh{.data = 2, .pipeline = 2, .shards = 2}}}) {
    ProgramOptions o = equivalence_options(family, DType::f32, 1);
    o.model.layers = 5;
    for (const bool remade : {false, true}) {
      if (remade) o.recompute.assign(5, {RecomputeMode::Full, {}});
      Layout layout{.mesh = mesh, .zero = 3, .sequence = mesh.tensor > 1};
      SCOPED_TRACE(name_of(layout));
      const RunResult units = train_on(layout, o, kRows, kSteps);
      for (const std::int64_t bytes : {std::int64_t{1}, std::int64_t{80000}, std::int64_t{1} << 30}) {
        layout.gather_bytes = bytes;
        layout.prefetch = bytes == 80000 ? 2 : 1;
        SCOPED_TRACE(name_of(layout));
        const RunResult run = train_on(layout, o, kRows, kSteps, bytes == 80000);
        expect_same_bits(run, units);
        EXPECT_EQ(run.high_water, run.planned);
        EXPECT_EQ(run.sent, units.sent);
        EXPECT_EQ(run.allocations, 0);
        EXPECT_GE(run.planned.front(), units.planned.front() + (bytes > 80000 ? 1 : 0));
      }
    }
  }
}

// Shares of the state that differ are gathered by their own counts; a rank may have nothing of a small unit.
TEST(JoinedGathers, WithUnevenSharesOfTheState) {
  ProgramOptions o = equivalence_options(ModelFamily::Gpt2, DType::f32, 1);
  o.model.layers = 5;
  Layout layout{.mesh = {.data = 4, .shards = 4}, .zero = 3, .state_shares = {1, 60, 3, 7}};
  const RunResult units = train_on(layout, o, kRows, kSteps);
  layout.gather_bytes = std::int64_t{1} << 30;
  const RunResult run = train_on(layout, o, kRows, kSteps, true);
  expect_same_bits(run, units);
  EXPECT_EQ(run.high_water, run.planned);
  EXPECT_EQ(run.sent, units.sent);
}

// Neighbours up to so many bytes, in forward and in backward; a tied embedding is gathered once more behind the layers.
TEST(JoinedGathers, AreAsManyAsTheBytesSay) {
  ProgramOptions o = equivalence_options(ModelFamily::Gpt2, DType::f32, 1);
  o.model.layers = 6;
  o.mesh = {.data = 2, .shards = 2};
  o.zero = 3;
  const std::int64_t apart = gathers_of(o, op_id<AllGather>);
  EXPECT_EQ(apart, (1 + 6 + 1) + (1 + 1 + 6)) << "embedding, layers, norm; the tied head with the loss, norm, layers";
  EXPECT_EQ(gathers_of(o, op_id<GatherUnits>), 0);
  o.gather_bytes = std::int64_t{1} << 30;
  EXPECT_EQ(gathers_of(o, op_id<GatherUnits>), 2) << "one in each section";
  EXPECT_EQ(gathers_of(o, op_id<AllGather>), 1) << "of the embedding where it is the head";
  o.gather_bytes = 1;
  EXPECT_EQ(gathers_of(o, op_id<AllGather>), apart);
}

// The gradients of neighbouring units are summed as one: the owner of an element adds in rank order, whatever it is
// sent with. `poison`: memory that is left holds NaNs.
void expect_bits_of_units(const Layout& layout, const ProgramOptions& o, std::int64_t some_bytes, bool poison) {
  SCOPED_TRACE(name_of(layout));
  ProgramOptions with = o;
  with.bucket_bytes = 1;
  const RunResult units = train_on(layout, with, kRows, kSteps);
  for (const std::int64_t bytes : {some_bytes, 2 * some_bytes, std::int64_t{1} << 30}) {
    SCOPED_TRACE(bytes);
    with.bucket_bytes = bytes;
    const RunResult run = train_on(layout, with, kRows, kSteps, poison);
    expect_same_bits(run, units);
    EXPECT_EQ(run.high_water, run.planned);
    EXPECT_EQ(run.allocations, 0);
    // Of what replicas do not divide, the first of them has less of a sum than of its parts.
    if (layout.mesh.data / layout.mesh.shards <= 2) {
      EXPECT_EQ(run.sent, units.sent);
    }
  }
}

class JoinedSums : public testing::TestWithParam<int> {};

TEST_P(JoinedSums, GiveTheBitsOfUnits) {
  for (const auto& [family, mesh] : {std::pair{ModelFamily::Llama, Mesh{.data = 2, .shards = 2}},
                                     {ModelFamily::Gpt2, Mesh{.data = 4, .shards = 4}},
                                     {ModelFamily::Gpt2, Mesh{.data = 4, .shards = 2}},
                                     {ModelFamily::Llama, Mesh{.data = 6, .shards = 2}},
                                     {ModelFamily::Gpt2, Mesh{.data = 2, .shards = 1}},
                                     {ModelFamily::Llama, Mesh{.data = 2, .tensor = 2, .shards = 2}}}) {
    ProgramOptions o = equivalence_options(family, DType::f32, 1);
    o.model.layers = 5;
    const Layout layout{.mesh = mesh, .zero = GetParam(), .sequence = mesh.tensor > 1};
    for (const bool poison : {false, true}) expect_bits_of_units(layout, o, 80000, poison);
  }
}

TEST_P(JoinedSums, InPipelinesOfEverySchedule) {
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    ProgramOptions o = equivalence_options(family, DType::f32, 1);
    o.model.layers = 8;
    for (const Layout& layout :
         every_schedule({.mesh = {.data = 2, .pipeline = 2, .shards = 2}, .zero = GetParam()}, o.model.layers))
      expect_bits_of_units(layout, o, 80000, true);
  }
}

// A rank may have nothing of a small unit.
TEST_P(JoinedSums, WithUnevenSharesOfTheState) {
  ProgramOptions o = equivalence_options(ModelFamily::Gpt2, DType::f32, 1);
  o.model.layers = 5;
  expect_bits_of_units({.mesh = {.data = 4, .shards = 4}, .zero = GetParam(), .state_shares = {1, 60, 3, 7}}, o, 80000,
                       true);
  expect_bits_of_units({.mesh = {.data = 4, .shards = 2}, .zero = GetParam(), .state_shares = {2, 7}}, o, 80000, false);
}

// Layers whose parameters take several pieces of a reduction, in half precision too.
TEST_P(JoinedSums, OfLayersOfSeveralPieces) {
  ProgramOptions o = equivalence_options(ModelFamily::Llama, DType::bf16, 1);
  o.model.hidden = 192;
  o.model = resolve(o.model);
  expect_bits_of_units({.mesh = {.data = 2, .shards = 2}, .zero = GetParam()}, o, 3 << 20, false);
}

// One message for all, and so many bytes as before on every axis; with replicas of shards one for them too.
TEST_P(JoinedSums, AreOneMessageOfNeighbours) {
  ProgramOptions o = equivalence_options(ModelFamily::Llama, DType::f32, 1);
  o.model.layers = 5;
  o.mesh = {.data = 4, .shards = 2};
  o.zero = GetParam();
  const auto calls = [&](std::string_view axis) {
    const Programs programs = build_programs(o);
    std::int64_t count = 0, bytes = 0;
    for (const CollectiveCall& c : collectives(programs.graph("train"))) {
      const bool sum = c.kind != CollectiveKind::AllGather && c.section == Graph::Section::Backward;
      const bool once = (c.when & static_cast<std::uint8_t>(Variant::Only)) != 0;
      if (!sum || !once || c.axis != axis) continue;
      ++count;
      bytes += c.bytes();
    }
    return std::pair(count, bytes);
  };
  const auto shard = calls("shard"), replica = calls("replica");
  EXPECT_EQ(shard.first, 5 + 2) << "layers, the embedding, the head";
  EXPECT_EQ(replica.first, shard.first);
  EXPECT_EQ(replica.second * 2, shard.second);
  o.bucket_bytes = std::int64_t{1} << 30;
  EXPECT_EQ(calls("shard"), (std::pair{std::int64_t{1}, shard.second}));
  EXPECT_EQ(calls("replica"), (std::pair{std::int64_t{1}, replica.second}));
}

INSTANTIATE_TEST_SUITE_P(Stages, JoinedSums, testing::Values(1, 2, 3),
                         [](const auto& p) { return fmt::format("zero{}", p.param); });

}  // namespace
}  // namespace plimsoll
