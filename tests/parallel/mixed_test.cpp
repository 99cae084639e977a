// Half precision on meshes: the training of one rank, gradients as exact as its own, the arenas as planned,
// recomputation bit for bit.

#include "parallel/tensor.hpp"
#include "tests/support/equivalence.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr std::int64_t kRows = 8, kSteps = 4;

class Mixed : public testing::TestWithParam<std::tuple<ModelFamily, DType, Layout>> {};

TEST_P(Mixed, TrainsAsOneRank) {
  const auto& [family, dtype, layout] = GetParam();
  const ProgramOptions o = equivalence_options(family, dtype, 1);
  const RunResult run = train_on(layout, o, kRows, kSteps);
  expect_same_training(run, train_on({}, o, kRows, kSteps));
  expect_same_bits(train_on(layout, o, kRows, kSteps, true), run);  // poisoned
}

std::vector<Layout> layouts() {
  std::vector<Layout> all{{{.data = 2}}, {{.tensor = 2}}, {{.tensor = 2}, 0, true}, {{.pipeline = 2}}, {{.data = 4}}};
  for (const int zero : {1, 2, 3}) all.push_back({{.data = 2, .shards = 2}, zero});
  all.push_back({{.data = 4, .shards = 4}, 3});
  all.push_back({{.data = 2, .pipeline = 2, .shards = 2}, 1});
  all.push_back({{.data = 2, .tensor = 2, .shards = 2}, 3, true});
  Layout uneven{{.data = 2, .shards = 2}, 2};
  uneven.state_shares = {1, 3};
  all.push_back(uneven);
  for (const Layout& layout : every_schedule({{.pipeline = 2}}, 2)) {
    if (layout.schedule != Layout{}.schedule) all.push_back(layout);
  }
  return all;
}

std::string layout_name(const testing::TestParamInfo<std::tuple<ModelFamily, DType, Layout>>& info) {
  const auto& [family, dtype, layout] = info.param;
  std::string name = fmt::format("{}_{}_{}", family_name(family), dtype_name(dtype), name_of(layout));
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Meshes, Mixed,
                         testing::Combine(testing::Values(ModelFamily::Gpt2, ModelFamily::Llama),
                                          testing::Values(DType::bf16), testing::ValuesIn(layouts())),
                         layout_name);
INSTANTIATE_TEST_SUITE_P(F16, Mixed,
                         testing::Combine(testing::Values(ModelFamily::Llama), testing::Values(DType::f16),
                                          testing::Values(Layout{{.data = 2, .shards = 2}, 3}, Layout{{.tensor = 2}})),
                         layout_name);

// What ranks round is a function of the tensor, the element and the update: of each rank's elements all, each once,
// with the numbers that it has on one rank.
TEST(StochasticRounding, KnowsEveryElementOnEveryLayout) {
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    for (const Layout& layout : layouts()) {
      if (layout.mesh.ranks() > 2) continue;
      SCOPED_TRACE(name_of(layout));
      for (int rank = 0; rank < layout.mesh.ranks(); ++rank) {
        ProgramOptions o = equivalence_options(family, DType::bf16, 1);
        o.optimizer.rounding = WeightRounding::Stochastic;
        o.mesh = layout.mesh;
        o.zero = layout.zero;
        o.sequence_parallel = layout.sequence;
        o.schedule = PipelineSchedule::OneFOneB;
        o.state_shares = layout.state_shares;
        o.rank = rank;
        const Programs programs = build_programs(o);
        const Graph& graph = programs.graph("train");
        // (element of the master weights of this rank) → what it is
        std::map<std::int64_t, std::pair<std::uint64_t, std::int64_t>> found, expected;
        const ValueId masters = graph.find("optimizer.master");
        for (const Node& node : graph.nodes) {
          if (node.op != op_id<RoundWeights>) continue;
          const std::int64_t begin = graph.offset_in_root(node.value[RoundWeights::kWeights]) / 4;
          ASSERT_EQ(graph.root(node.value[RoundWeights::kWeights]), graph.root(masters));
          for (const RoundSegment& s : std::get<op_id<RoundWeights>>(node.attrs).segments) {
            for (std::int64_t i = 0; i < s.elements; ++i) {
              const std::int64_t at = tensor_element(s, i);
              if (at < 0) continue;
              EXPECT_TRUE(found.try_emplace(begin + s.offset + i, s.stream, at).second) << "twice";
            }
          }
        }
        for_each_run(graph, programs.layout, [&](const TensorRun& run) {
          for_each_shard_range(programs.layout, programs.shard_rank, run.flat_first, run.count,
                               [&](const ShardRange& r) {
                                 for (std::int64_t i = 0; i < r.count; ++i)
                                   expected.try_emplace(r.shard_first + i, rounding_stream(run.part->name),
                                                        run.tensor_first + (r.flat_first - run.flat_first) + i);
                               });
        });
        EXPECT_GT(expected.size(), 100U);
        EXPECT_EQ(found, expected);
      }
    }
  }
}

TEST(StochasticRounding, TrainsTheSameOnMeshes) {
  ProgramOptions o = equivalence_options(ModelFamily::Llama, DType::bf16, 1);
  o.optimizer.rounding = WeightRounding::Stochastic;
  const RunResult one = train_on({}, o, kRows, kSteps);
  for (const Layout& layout : {Layout{{.data = 2, .shards = 2}, 3}, Layout{{.tensor = 2}}, Layout{{.pipeline = 2}}}) {
    SCOPED_TRACE(name_of(layout));
    expect_same_training(train_on(layout, o, kRows, kSteps), one);
  }
  ProgramOptions nearest = o;
  nearest.optimizer.rounding = WeightRounding::Nearest;
  EXPECT_NE(train_on({}, nearest, kRows, kSteps).losses, one.losses);
}

TEST(MixedRecompute, TheSameBits) {
  for (const Layout& layout :
       {Layout{}, Layout{{.data = 2, .tensor = 2, .shards = 2}, 3, true}, Layout{{.pipeline = 2}}}) {
    SCOPED_TRACE(name_of(layout));
    ProgramOptions o = four_layer_options(ModelFamily::Gpt2);
    o.dtype = DType::bf16;
    const RunResult none = train_on(layout, o, kRows, 3);
    for (const RecomputeMode mode : {RecomputeMode::Full, RecomputeMode::Selective, RecomputeMode::Offload}) {
      o.recompute.assign(4, {mode, {}});
      const RunResult run = train_on(layout, o, kRows, 3);
      expect_same_bits(run, none);
      EXPECT_EQ(run.high_water, run.planned);
      EXPECT_EQ(run.host_high_water, run.host_planned);
      EXPECT_EQ(run.allocations, 0);
    }
  }
}

// What a step of gradient descent adds to every tensor of the masters: its gradient, but for a factor.
std::vector<std::vector<double>> gradients(ModelFamily family, DType dtype, Layout layout) {
  ProgramOptions o = equivalence_options(family, dtype, 1);
  o.optimizer.name = OptimizerName::Sgd;
  o.optimizer.clip = o.optimizer.weight_decay = 0;
  layout.mesh.kv_copies = TensorParallel{layout.mesh.tensor, 0, false}.kv_copies(o.model);
  RunResult run = train_on(layout, o, kRows, 1);
  for (std::size_t t = 0; t < run.final.size(); ++t) {
    for (std::size_t i = 0; i < run.final[t].size(); ++i) run.final[t][i] -= run.initial[t][i];
  }
  return run.final;
}

// Ranks round their parts of a sum where one rank rounds the whole, so they differ from it by what either of them
// differs from exact gradients. What one rank rounds away depends on luck in tensors of few elements, hence the floor.
TEST(MixedGradients, OfAMeshAreAsExactAsThoseOfOneRank) {
  const std::vector<Layout> meshes{{{.tensor = 2}},          {{.tensor = 2}, 0, true},
                                   {{.tensor = 4}, 0, true}, {{.data = 4}},
                                   {{.pipeline = 2}},        {{.data = 2, .tensor = 2, .shards = 2}, 3, true}};
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    const auto exact = gradients(family, DType::f64, {});
    for (const auto& [dtype, epsilon] : {std::pair{DType::bf16, 0x1p-8}, std::pair{DType::f16, 0x1p-11}}) {
      const auto one = gradients(family, dtype, {});
      for (const Layout& layout : meshes) {
        SCOPED_TRACE(fmt::format("{} {} {}", family_name(family), dtype_name(dtype), name_of(layout)));
        const auto mesh = gradients(family, dtype, layout);
        for (std::size_t t = 0; t < exact.size(); ++t)
          EXPECT_LE(relative_norm(mesh[t], exact[t]), 2 * std::max(2 * epsilon, relative_norm(one[t], exact[t]))) << t;
      }
    }
  }
}

}  // namespace
}  // namespace plimsoll
