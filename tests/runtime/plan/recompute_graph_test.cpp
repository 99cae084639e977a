// What the recompute planner is told about a layer is what the graph rewrite does.

#include "runtime/plan/recompute_graph.hpp"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "parallel/tensor.hpp"
#include "runtime/graph/autodiff.hpp"
#include "runtime/graph/offload.hpp"
#include "runtime/graph/row_splits.hpp"
#include "runtime/plan/kernel_profile.hpp"
#include "runtime/plan/offload_costs.hpp"
#include "tests/launch/tiny_run.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr int kLayers = 4;

ModelConfig model_of(ModelFamily family, double dropout) {
  ModelConfig m = tiny_model(family);
  m.layers = kLayers;
  m.dropout = dropout;
  m.qk_norm = family == ModelFamily::Llama && dropout > 0;
  return m;
}

Graph differentiated(const ModelConfig& model, const TensorParallel& tensor) {
  Graph graph = build_transformer(model, {2, 12, Head::Loss, DType::f32, kLogitsBytes, 0, true, {}});
  if (tensor.ranks > 1) graph = split_over_tensor(graph, model, tensor);
  add_backward(graph);
  return graph;
}

struct Case {
  ModelFamily family;
  double dropout;
  TensorParallel tensor;
};
const std::vector<Case> kCases{{ModelFamily::Gpt2, 0, {1, 0, false}},   {ModelFamily::Gpt2, 0.1, {1, 0, false}},
                               {ModelFamily::Llama, 0, {1, 0, false}},  {ModelFamily::Llama, 0.1, {1, 0, false}},
                               {ModelFamily::Gpt2, 0.1, {2, 0, false}}, {ModelFamily::Llama, 0, {2, 0, true}}};

// Non-persistent roots of layers that a forward node writes and a node of backward touches.
std::int64_t kept_bytes(const Graph& graph) {
  std::map<ValueId, std::size_t> written;
  std::map<ValueId, std::int64_t> kept;
  for (std::size_t n = 0; n < std::min(graph.nodes.size(), graph.update_begin); ++n) {
    for_each_access(graph, graph.nodes[n], [&](const MemoryAccess& a) {
      const ValueId root = graph.root(a.value);
      if (graph[root].persistent || graph[root].host) return;
      if (n < graph.backward_begin && a.writes && graph.nodes[n].layer >= 0) written.try_emplace(root, n);
      if (n >= graph.backward_begin && written.contains(root)) kept[root] = graph[root].spec.bytes();
    });
  }
  std::int64_t sum = 0;
  for (const auto& [root, bytes] : kept) sum += bytes;
  return sum;
}

Graph rewritten(Graph graph, const std::vector<LayerRecompute>& layers) {
  const std::vector<ValueId> sent = offloaded_values(graph, layers);
  recompute(graph, keep_sets(graph, layers));
  offload(graph, sent);
  split_rows(graph, layers);
  EXPECT_EQ(verify(graph), std::nullopt);
  return graph;
}

std::int64_t input_bytes(const GraphStage& s) {
  std::int64_t bytes = 0;
  for (const int k : s.stage.layers) {
    const auto kind = static_cast<std::size_t>(k);
    for (std::size_t t = 0; t < s.names[kind].size(); ++t)
      bytes += s.names[kind][t].empty() ? s.stage.kinds[kind].tensors[t].bytes : 0;
  }
  return bytes;
}

class RecomputeGraph : public testing::TestWithParam<std::size_t> {
 protected:
  const Case& c() const { return kCases[GetParam()]; }
  const Graph graph = differentiated(model_of(c().family, c().dropout), c().tensor);
  const DescribedCosts costs{ClusterDescription{}};
  const GraphStage s = graph_stage(graph, costs, {});
};

TEST_P(RecomputeGraph, LayersOfAKindAreOneKind) {
  EXPECT_EQ(s.layers, (std::vector<int>{0, 1, 2, 3}));
  ASSERT_EQ(s.stage.kinds.size(), 2U) << "the first reads the embedding";
  EXPECT_EQ(s.stage.layers, (std::vector<int>{0, 1, 1, 1}));
  EXPECT_GT(s.stage.head_bytes, 0);
  double all = 0;
  for (const Node& node : graph.nodes) all += costs.node_seconds(graph, node);
  EXPECT_GE(s.micro_batch_seconds, all * (1 - 1e-12));
  for (const LayerKind& kind : s.stage.kinds) check_layer_kind(kind);
}

// Any fates: the seconds that the planner adds up are those of the copies, and the bytes those that are kept.
TEST_P(RecomputeGraph, CostsAndBytesAreThoseOfTheRewrite) {
  std::mt19937 random(static_cast<unsigned>(GetParam()));
  for (int trial = 0; trial < 60; ++trial) {
    SCOPED_TRACE(trial);
    std::vector<LayerChoice> choices;
    for (const int k : s.stage.layers) {
      const LayerKind& kind = s.stage.kinds[static_cast<std::size_t>(k)];
      std::vector<Fate> fates = keep_everything(kind).fates;
      for (std::size_t t = 0; t < fates.size(); ++t) {
        const LayerTensor& tensor = kind.tensors[t];
        if (!tensor.always_kept && fates[t] == Fate::Keep && random() % 10 < static_cast<unsigned>(trial % 10))
          fates[t] = Fate::Drop;
      }
      for (std::size_t t = 0; t < fates.size(); ++t) {
        const int with = kind.tensors[t].kept_with;
        if (with >= 0 && fates[static_cast<std::size_t>(with)] == Fate::Drop) fates[t] = Fate::Drop;
      }
      const auto option = simulate_layer(kind, fates, 1, nullptr);
      ASSERT_TRUE(option);
      choices.push_back({*option, static_cast<int>(choices.size()), false});
    }
    const RecomputePlan plan = recompute_plan_of(s.stage, choices);
    const Graph made = rewritten(graph, layer_recompute(s, plan));
    EXPECT_NEAR(recompute_seconds(made, costs), plan.seconds, 1e-9 * s.micro_batch_seconds);
    EXPECT_EQ(kept_bytes(made), plan.saved_bytes - input_bytes(s));
  }
}

// The same with a third fate, of what backward reads itself, boundaries among it: copies that compute waits for add up
// too.
TEST_P(RecomputeGraph, OffloadTakesTheTimeAndTheHostBytesOfItsCopies) {
  GraphStageOptions options;
  options.offload_overlap = false;
  options.boundaries_leave = true;
  const GraphStage with = graph_stage(graph, costs, options);
  ASSERT_TRUE(with.stage.link);
  const HostLink& link = *with.stage.link;
  EXPECT_NEAR(link.to_host_bytes_per_second, 6e9, 1);
  EXPECT_NEAR(link.latency_seconds, 1e-6, 1e-15);
  std::mt19937 random(static_cast<unsigned>(GetParam()));
  int sent = 0, boundaries = 0;
  for (int trial = 0; trial < 60; ++trial) {
    SCOPED_TRACE(trial);
    std::vector<LayerChoice> choices;
    for (const int k : with.stage.layers) {
      const LayerKind& kind = with.stage.kinds[static_cast<std::size_t>(k)];
      std::set<int> read;
      for (const BackwardStep& step : kind.steps) read.insert(step.reads.begin(), step.reads.end());
      std::vector<Fate> fates = keep_everything(kind).fates;
      for (std::size_t t = 0; t < fates.size(); ++t) {
        const unsigned draw = random() % 10;
        const bool boundary = kind.tensors[t].always_kept;
        if ((boundary && !kind.tensors[t].may_leave) || fates[t] != Fate::Keep) continue;
        if (draw < 3 && !boundary) fates[t] = Fate::Drop;
        if (draw > 6 && read.contains(static_cast<int>(t))) fates[t] = Fate::Offload;
        boundaries += boundary && fates[t] == Fate::Offload ? 1 : 0;
      }
      for (std::size_t t = 0; t < fates.size(); ++t) {
        const int to = kind.tensors[t].kept_with;
        if (to >= 0 && fates[static_cast<std::size_t>(to)] == Fate::Drop) fates[t] = Fate::Drop;
      }
      const auto option = simulate_layer(kind, fates, 1, &link);
      ASSERT_TRUE(option);
      choices.push_back({*option, static_cast<int>(choices.size()), false});
    }
    const RecomputePlan plan = recompute_plan_of(with.stage, choices);
    const std::vector<LayerRecompute> layers = layer_recompute(with, plan);
    const Graph made = rewritten(graph, layers);
    EXPECT_NEAR(recompute_seconds(made, costs) + offload_seconds(made, costs, false), plan.seconds,
                1e-9 * with.micro_batch_seconds);
    EXPECT_LE(offload_seconds(made, costs, true), offload_seconds(made, costs, false));
    std::int64_t host = 0;
    for (const Value& value : made.values)
      host += value.host ? (value.spec.bytes() + kArenaAlignment - 1) / kArenaAlignment * kArenaAlignment : 0;
    EXPECT_EQ(host, plan.host_bytes);
    EXPECT_EQ(kept_bytes(made), plan.saved_bytes - input_bytes(with));
    sent += host > 0 ? 1 : 0;
  }
  EXPECT_GT(sent, 50);
  EXPECT_GT(boundaries, 20);
}

// Where host memory is short, only the first layers get some, and no choice of theirs takes more.
TEST_P(RecomputeGraph, AHostLimitIsALimitOfEachLayer) {
  GraphStageOptions options;
  options.offload_overlap = true;
  ClusterDescription fast;
  fast.device.host = {0, 1e15};
  const GraphStage with = graph_stage(graph, DescribedCosts(fast), options);
  const std::int64_t all = no_recompute_peak_bytes(with.stage);
  const auto sent_at = [&](const GraphStage& of, std::int64_t budget) {
    const auto answer = plan_recompute(of.stage, budget);
    std::vector<std::int64_t> sent;
    for (const LayerChoice& choice : std::get<RecomputePlan>(answer).layers) sent.push_back(choice.option.host_bytes);
    return sent;
  };
  const std::vector<std::int64_t> most = sent_at(with, all * 9 / 10);
  const std::int64_t largest = *std::max_element(most.begin(), most.end());
  ASSERT_GT(largest, 0);
  for (const std::int64_t limit : {std::int64_t{0}, largest / 3, largest / 2, largest}) {
    const std::vector<std::int64_t> sent = sent_at(with_host_limit(with, kLayers / 2, limit), all * 9 / 10);
    for (std::size_t l = 0; l < sent.size(); ++l) EXPECT_LE(sent[l], l < kLayers / 2 ? limit : 0);
  }
}

// Every node of a block costs what it costs for fewer rows.
TEST_P(RecomputeGraph, RowSplitsCostWhatTheirNodesCost) {
  GraphStageOptions options;
  options.row_splits = true;
  const GraphStage with = graph_stage(graph, costs, options);
  std::mt19937 random(static_cast<unsigned>(GetParam()));
  for (int trial = 0; trial < 20; ++trial) {
    SCOPED_TRACE(trial);
    std::vector<LayerChoice> choices;
    for (const int k : with.stage.layers) {
      const LayerKind& kind = with.stage.kinds[static_cast<std::size_t>(k)];
      ASSERT_TRUE(kind.rows);
      ASSERT_EQ(kind.rows->parts.size(), 3U) << "16 do not divide 24 rows";
      const unsigned draw = random() % 4;
      const int parts = draw == 3 ? 1 : kind.rows->parts[draw].count;
      const auto option = simulate_layer(kind, keep_nothing(kind).fates, parts, nullptr);
      ASSERT_TRUE(option);
      choices.push_back({*option, static_cast<int>(choices.size()), false});
    }
    const RecomputePlan plan = recompute_plan_of(with.stage, choices);
    const std::vector<LayerRecompute> layers = layer_recompute(with, plan);
    EXPECT_EQ(row_split_fault(graph, layers), std::nullopt);
    const Graph made = rewritten(graph, layers);
    EXPECT_NEAR(recompute_seconds(made, costs) + row_split_seconds(graph, costs, layers), plan.seconds,
                1e-9 * with.micro_batch_seconds);
    EXPECT_EQ(kept_bytes(made), plan.saved_bytes - input_bytes(with));
    // Nor is anything lost: what nodes take in all is what they took whole, and what the planner adds.
    double whole = 0, split = 0;
    for (const Node& node : graph.nodes) whole += costs.node_seconds(graph, node);
    for (const Node& node : made.nodes) split += costs.node_seconds(made, node);
    double wire = 0;
    for (const CollectiveCall& call : collectives(made))
      wire += made.nodes[call.node].again ? costs.collective_seconds(call.kind, call.bytes(), call.ranks, 1) : 0;
    EXPECT_NEAR(split + wire - whole, plan.seconds, 1e-9 * with.micro_batch_seconds);
  }
}

TEST_P(RecomputeGraph, PlansCostWhatTheirCopiesCost) {
  RecomputePlanner planner(s.stage);
  const std::int64_t all = no_recompute_peak_bytes(s.stage);
  const auto least = planner.plan(0);
  ASSERT_TRUE(std::holds_alternative<RecomputeInfeasible>(least));
  double last = 1e9;
  for (std::int64_t budget = std::get<RecomputeInfeasible>(least).needed_bytes; budget <= all; budget += all / 50) {
    SCOPED_TRACE(budget);
    const auto answer = planner.plan(budget);
    ASSERT_TRUE(std::holds_alternative<RecomputePlan>(answer));
    const RecomputePlan& plan = std::get<RecomputePlan>(answer);
    EXPECT_LE(plan.seconds, last);
    last = plan.seconds;
    const Graph made = rewritten(graph, layer_recompute(s, plan));
    EXPECT_NEAR(recompute_seconds(made, costs), plan.seconds, 1e-9 * s.micro_batch_seconds);
  }
  const auto enough = planner.plan(all);
  ASSERT_TRUE(std::holds_alternative<RecomputePlan>(enough));
  for (const LayerRecompute& layer : layer_recompute(s, std::get<RecomputePlan>(enough)))
    EXPECT_EQ(layer, LayerRecompute{});
}

// Segments as the rewrite makes them: everything between two boundaries once.
TEST_P(RecomputeGraph, SegmentsCostWhatTheirCopiesCost) {
  for (int first = 0; first + 1 < kLayers; ++first) {
    for (int end = first + 2; end <= kLayers; ++end) {
      SCOPED_TRACE(testing::Message() << "layers " << first << " to " << end - 1);
      std::vector<LayerChoice> choices;
      for (int l = 0; l < kLayers; ++l) {
        const LayerKind& kind = s.stage.kinds[static_cast<std::size_t>(s.stage.layers[static_cast<std::size_t>(l)])];
        const bool inside = l >= first && l < end, last = l + 1 == end;
        choices.push_back(
            {inside && last ? keep_nothing(kind) : keep_everything(kind), inside ? first : l, inside && !last});
      }
      const RecomputePlan plan = recompute_plan_of(s.stage, choices);
      EXPECT_EQ(plan.level, RecomputeLevel::Segments);
      const std::vector<LayerRecompute> layers = layer_recompute(s, plan);
      EXPECT_EQ(layers[static_cast<std::size_t>(first)].mode, RecomputeMode::Full);
      for (int l = first + 1; l < end; ++l)
        EXPECT_EQ(layers[static_cast<std::size_t>(l)], (LayerRecompute{RecomputeMode::Auto, {}}));
      const Graph made = rewritten(graph, layers);
      EXPECT_NEAR(recompute_seconds(made, costs), plan.seconds, 1e-9 * s.micro_batch_seconds);
      EXPECT_EQ(kept_bytes(made), plan.saved_bytes - input_bytes(s));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, RecomputeGraph, testing::Range<std::size_t>(0, kCases.size()));

// Beside the layers of the model lies the same, in however many blocks of rows their MLPs run: the planner's peaks are
// those of the byte plan. All values of layers are multiples of the alignment, which statistics of a few rows and
// workspaces are not.
TEST(RecomputeGraphPeaks, OfRowSplitsAreThoseOfTheBytePlan) {
  const DescribedCosts costs{ClusterDescription{}};
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    for (const std::int64_t ffn : {64, 256, 1024}) {
      ProgramOptions o = tiny_options(family);
      o.model = model_of(family, family == ModelFamily::Gpt2 ? 0.1 : 0);
      o.model.hidden = 64;
      o.model.head_dim = 16;
      o.model.ffn = ffn;
      o.model.vocabulary = 32;
      o.micro_batch = 4;
      o.sequence = 32;
      GraphStageOptions options;
      options.row_splits = true;
      options.threads = o.threads;
      const GraphStage s = graph_stage(tiny_training_graph(o), costs, options);
      std::map<std::int64_t, std::int64_t> beside;  // by rows
      for (const int rows : {1, 2, 4, 8, 16}) {
        std::vector<LayerChoice> choices;
        for (const int k : s.stage.layers) {
          const LayerKind& kind = s.stage.kinds[static_cast<std::size_t>(k)];
          const auto option = simulate_layer(kind, keep_nothing(kind).fates, rows, nullptr);
          choices.push_back({*option, static_cast<int>(choices.size()), false});
        }
        const RecomputePlan plan = recompute_plan_of(s.stage, choices);
        o.recompute = layer_recompute(s, plan);
        const Programs programs = build_programs(o);
        EXPECT_EQ(check_memory(programs.list(), programs.plan), std::nullopt);
        beside[rows] = programs.plan.program("train").max_live_bytes - plan.peak_bytes;
      }
      for (const auto& [rows, bytes] : beside)
        EXPECT_LT(std::abs(bytes - beside.at(1)), kArenaAlignment)
            << rows << " blocks, " << (family == ModelFamily::Gpt2 ? "gpt2" : "llama") << ", ffn " << ffn;
    }
  }
}

// Each way has its own rate; copies are measured, like kernels, where there is a timer.
TEST(RecomputeGraphLink, IsTheLineThroughMeasuredCopies) {
  class Timer : public NodeTimer {
   public:
    std::optional<double> node_seconds(const Graph&, const Node& node) override {
      if (!op_info(node.op).copies) return std::nullopt;
      return 3e-6 + static_cast<double>(node.specs[0].bytes()) / (node.op == op_id<ToHost> ? 1e9 : 2e9);
    }
    std::optional<double> memory_seconds_per_byte() override { return std::nullopt; }
    std::optional<MeasuredLink> link(LinkOperation) override { return std::nullopt; }
  };
  const Graph graph = differentiated(model_of(ModelFamily::Gpt2, 0), {1, 0, false});
  const DescribedCosts described{ClusterDescription{}};
  Timer timer;
  const ProfiledCosts costs(described, {}, &timer);
  GraphStageOptions options;
  options.offload_overlap = true;
  const HostLink link = graph_stage(graph, costs, options).stage.link.value();
  EXPECT_TRUE(link.overlap);
  EXPECT_NEAR(link.latency_seconds, 3e-6, 1e-12);
  EXPECT_NEAR(link.to_host_bytes_per_second, 1e9, 1e3);
  EXPECT_NEAR(link.from_host_bytes_per_second, 2e9, 1e3);
  EXPECT_TRUE(costs.grew()) << "it is kept with the kernels";
}

TEST(RecomputeGraphModes, ArePlansToo) {
  const Graph graph = differentiated(model_of(ModelFamily::Gpt2, 0), {1, 0, false});
  const DescribedCosts costs{ClusterDescription{}};
  const GraphStage s = graph_stage(graph, costs, {});
  std::vector<LayerChoice> choices;
  for (const int k : s.stage.layers) {
    const LayerKind& kind = s.stage.kinds[static_cast<std::size_t>(k)];
    LayerOption option = keep_nothing(kind);
    if (choices.size() == 1) option = keep_everything(kind);
    if (choices.size() == 2) {
      std::vector<Fate> fates = keep_everything(kind).fates;
      for (std::size_t t = 0; t < fates.size(); ++t) {
        if (kind.tensors[t].name == "attention.out") fates[t] = Fate::Drop;
      }
      option = *simulate_layer(kind, fates, 1, nullptr);
    }
    choices.push_back({option, static_cast<int>(choices.size()), false});
  }
  const std::vector<LayerRecompute> layers = layer_recompute(s, recompute_plan_of(s.stage, choices));
  using enum RecomputeMode;
  EXPECT_EQ(layers, (std::vector<LayerRecompute>{{Full, {}}, {None, {}}, {Selective, {}}, {Full, {}}}));
}

}  // namespace
}  // namespace plimsoll
