// Communication beside compute: linears in chunks, and what the memory plan keeps for what is under way.

#include "parallel/overlap.hpp"

#include <set>

#include "parallel/tensor.hpp"

#include "tests/support/equivalence.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr std::int64_t kRows = 8, kSteps = 4;

ProgramOptions options_of(ModelFamily family, DType dtype) {
  ProgramOptions o = tiny_options(family);
  o.micro_batch = 4;
  o.dtype = dtype;
  o.evaluate = true;
  return o;
}

ProgramOptions on_layout(ProgramOptions o, const Layout& layout) {
  o.mesh = layout.mesh;
  o.zero = layout.zero;
  o.sequence_parallel = layout.sequence;
  o.tensor_chunks = layout.tensor_chunks;
  return o;
}

// A product of a part of the rows may round differently in its last bit, since libraries choose their blocks by the
// shape; everything else is the same sums. So: a tolerance a thousand times tighter than between layouts.
void expect_same_losses(const RunResult& a, const RunResult& b, DType dtype) {
  ASSERT_EQ(a.losses.size(), b.losses.size());
  for (std::size_t i = 0; i < a.losses.size(); ++i)
    EXPECT_NEAR(a.losses[i], b.losses[i], (dtype == DType::f64 ? 1e-13 : 2e-7) * b.losses[i]) << "step " << i;
}

class Chunks : public testing::TestWithParam<std::tuple<ModelFamily, bool, int, int>> {};

TEST_P(Chunks, TrainAsWholeLinears) {
  const auto [family, sequence, tensor, chunks] = GetParam();
  const int kv_copies = TensorParallel{tensor, 0, false}.kv_copies(tiny_model(family));
  for (const DType dtype : {DType::f32, DType::f64}) {
    const ProgramOptions o = options_of(family, dtype);
    Layout layout{.mesh = {.tensor = tensor, .kv_copies = kv_copies}, .sequence = sequence};
    const RunResult whole = train_on(layout, o, kRows, kSteps);
    layout.tensor_chunks = chunks;
    const RunResult run = train_on(layout, o, kRows, kSteps);
    expect_same_losses(run, whole, dtype);
    EXPECT_EQ(run.sent, whole.sent);
    EXPECT_EQ(run.high_water, run.planned);
    EXPECT_EQ(run.allocations, 0);
    EXPECT_EQ(train_on(layout, o, kRows, kSteps).final, run.final) << "the same layout gives the same bits";
  }
}

INSTANTIATE_TEST_SUITE_P(Linears, Chunks,
                         testing::Combine(testing::Values(ModelFamily::Gpt2, ModelFamily::Llama), testing::Bool(),
                                          testing::Values(2, 4), testing::Values(2, 4)),
                         [](const auto& p) {
                           return fmt::format(
                               "{}{}_{}ranks_{}chunks", std::get<0>(p.param) == ModelFamily::Gpt2 ? "gpt2" : "llama",
                               std::get<1>(p.param) ? "_sequence" : "", std::get<2>(p.param), std::get<3>(p.param));
                         });

TEST(Overlap, ChunksWithReplicasAndStages) {
  ProgramOptions o = options_of(ModelFamily::Llama, DType::f64);
  const RunResult one = train_on({}, o, kRows, kSteps);
  for (const Layout& layout :
       {Layout{.mesh = {.data = 2, .tensor = 2, .shards = 2}, .zero = 3, .sequence = true, .tensor_chunks = 2},
        Layout{.mesh = {.data = 2, .tensor = 2, .shards = 2}, .zero = 2, .tensor_chunks = 3}}) {
    SCOPED_TRACE(name_of(layout));
    expect_same_training(train_on(layout, o, kRows, kSteps), one);
  }
  o.micro_batch = 2;
  const RunResult again = train_on({}, o, kRows, kSteps);
  for (const ScheduleKind schedule : {ScheduleKind::OneFOneB, ScheduleKind::ZbH1}) {
    const Layout layout{
        .mesh = {.pipeline = 2, .tensor = 2}, .sequence = true, .schedule = schedule, .tensor_chunks = 2};
    SCOPED_TRACE(name_of(layout));
    expect_same_training(train_on(layout, o, kRows, kSteps), again);
  }
}

// Streams that wait for each other after every collective compute the same bits.
TEST(Overlap, OffGivesTheSameBits) {
  const ProgramOptions o = options_of(ModelFamily::Gpt2, DType::f32);
  for (Layout layout : {Layout{.mesh = {.data = 2}}, Layout{.mesh = {.data = 2, .shards = 2}, .zero = 3},
                        Layout{.mesh = {.tensor = 2}, .sequence = true, .tensor_chunks = 2}}) {
    SCOPED_TRACE(name_of(layout));
    const RunResult with = train_on(layout, o, kRows, kSteps);
    layout.overlap = false;
    const RunResult without = train_on(layout, o, kRows, kSteps);
    EXPECT_EQ(with.losses, without.losses);
    EXPECT_EQ(with.final, without.final);
  }
}

bool is_collective(const Node& node) { return op_info(node.op).collective; }

// Labels of the products and collectives of one linear of layer 0, in order.
std::vector<std::string> order_of(const Graph& graph, std::string_view label, Phase phase) {
  std::vector<std::string> order;
  for (const Node& n : graph.nodes) {
    const bool product = n.op == op_id<Linear> || n.op == op_id<LinearFp8>;
    const bool mine = n.layer == 0 && n.label.starts_with(label) && (product || is_collective(n));
    if (mine && (n.phase == phase || n.phase == Phase::WeightGrad))
      order.push_back(std::string(phase_name(n.phase)) + " " + n.label.substr(label.size()));
  }
  std::erase_if(order, [&](const std::string& s) { return phase == Phase::Forward && s.starts_with("weight"); });
  return order;
}

TEST(Overlap, CollectivesAreBetweenTheProducts) {
  using Order = std::vector<std::string>;
  const ProgramOptions o = options_of(ModelFamily::Gpt2, DType::f32);
  Layout layout{.mesh = {.tensor = 2}, .tensor_chunks = 2};
  {
    const Programs programs = build_programs(on_layout(o, layout));
    const Graph& graph = programs.graph("train");
    EXPECT_EQ(order_of(graph, "mlp.down", Phase::Forward),
              (Order{"forward  1/2", "forward .leave 1/2", "forward  2/2", "forward .leave 2/2"}));
    EXPECT_EQ(order_of(graph, "mlp.up", Phase::InputGrad),
              (Order{"input_grad  1/2", "input_grad .enter 1/2", "input_grad  2/2", "input_grad .enter 2/2",
                     "weight_grad "}));
    EXPECT_EQ(order_of(programs.graph("evaluate"), "mlp.down", Phase::Forward),
              order_of(graph, "mlp.down", Phase::Forward));
  }
  layout.sequence = true;
  {
    const Programs programs = build_programs(on_layout(o, layout));
    const Graph& graph = programs.graph("train");
    EXPECT_EQ(order_of(graph, "mlp.up", Phase::Forward),
              (Order{"forward .enter 1/2", "forward .enter 2/2", "forward  1/2", "forward  2/2"}));
    EXPECT_EQ(order_of(graph, "mlp.down", Phase::InputGrad),
              (Order{"input_grad .leave 1/2", "input_grad .leave 2/2", "input_grad  1/2", "input_grad  2/2",
                     "weight_grad "}));
  }
  layout = {.mesh = {.tensor = 2}};
  EXPECT_EQ(order_of(build_programs(on_layout(o, layout)).graph("train"), "mlp.up", Phase::InputGrad),
            (Order{"input_grad ", "input_grad .enter", "weight_grad "}))
      << "the weight gradient does not need the sum";
  ProgramOptions fp8 = options_of(ModelFamily::Gpt2, DType::bf16);
  fp8.fp8 = true;
  EXPECT_EQ(order_of(build_programs(on_layout(fp8, layout)).graph("train"), "mlp.up", Phase::InputGrad),
            (Order{"input_grad ", "input_grad .enter", "weight_grad "}));
}

struct Bytes {
  std::int64_t begin, end;
  bool writes;
};

std::vector<Bytes> bytes_of(const Graph& graph, const ProgramLayout& layout, std::size_t n) {
  std::vector<Bytes> all;
  for_each_access(graph, graph.nodes[n], [&](const MemoryAccess& a) {
    const std::int64_t begin = layout.value_offset[static_cast<std::size_t>(a.value)];
    all.push_back({begin, begin + graph[a.value].spec.bytes(), a.writes});
  });
  if (layout.workspace_offset[n] >= 0)
    all.push_back({layout.workspace_offset[n], layout.workspace_offset[n] + layout.workspace_bytes[n], true});
  return all;
}

bool meet(const std::vector<Bytes>& a, const std::vector<Bytes>& b) {
  return std::any_of(a.begin(), a.end(), [&](const Bytes& x) {
    return std::any_of(b.begin(), b.end(),
                       [&](const Bytes& y) { return x.begin < y.end && y.begin < x.end && (x.writes || y.writes); });
  });
}

// FLOPs of the nodes that run beside a collective, on other streams, without having been given its memory.
std::int64_t flops_beside(const Graph& graph, const ProgramLayout& layout, std::size_t collective) {
  const std::vector<Bytes> mine = bytes_of(graph, layout, collective);
  std::int64_t flops = 0;
  for (std::size_t n = collective + 1; n < graph.nodes.size() && graph.section(n) == graph.section(collective); ++n) {
    const Node& node = graph.nodes[n];
    if (node.stream == graph.nodes[collective].stream) continue;
    if (meet(mine, bytes_of(graph, layout, n))) break;
    flops += op_info(node.op).flops(node.attrs, node.specs, node.phase);
  }
  return flops;
}

// While the gradients of a layer are summed, those of the next are made, all of them, with what ranks that split it
// send each other.
TEST(Overlap, ReductionsLeaveRoomForTheNextUnit) {
  ProgramOptions o = options_of(ModelFamily::Gpt2, DType::f32);
  o.model.layers = 6;
  for (const Layout& layout :
       {Layout{.mesh = {.data = 2, .shards = 2}, .zero = 2}, Layout{.mesh = {.data = 2, .shards = 2}, .zero = 3},
        Layout{.mesh = {.data = 2, .tensor = 2, .shards = 2}, .zero = 2},
        Layout{.mesh = {.data = 2, .tensor = 2, .shards = 2}, .zero = 3, .sequence = true}}) {
    SCOPED_TRACE(name_of(layout));
    const Programs programs = build_programs(on_layout(o, layout));
    const Graph& graph = programs.graph("train");
    std::int64_t of_layer = 0;
    for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
      const Node& node = graph.nodes[n];
      if (is_collective(node)) {
        EXPECT_EQ(node.stream == StreamKind::Tensor, axis_of(node) == "tensor") << node.label;
      }
      const bool backward = graph.section(n) == Graph::Section::Backward && node.layer == 3;
      if (backward) of_layer += op_info(node.op).flops(node.attrs, node.specs, node.phase);
    }
    int checked = 0;
    for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
      const Node& node = graph.nodes[n];
      const bool reduction = node.op == op_id<ReduceScatter> && node.label.starts_with("reduce.");
      if (!reduction || node.layer < 2) continue;  // the last ones end with the section
      EXPECT_GE(flops_beside(graph, programs.plan.program("train"), n), of_layer * 9 / 10) << node.layer;
      ++checked;
    }
    EXPECT_EQ(checked, 2 * 4);  // of the first micro-batch and of later ones
  }
}

// The product of a chunk does not wait for the collective of the chunk before it, nor for one that fetches the next.
TEST(Overlap, ChunksLeaveRoomForTheNextProduct) {
  for (const bool sequence : {false, true}) {
    const Layout layout{.mesh = {.tensor = 2}, .sequence = sequence, .tensor_chunks = 4};
    SCOPED_TRACE(name_of(layout));
    const Programs programs = build_programs(on_layout(options_of(ModelFamily::Gpt2, DType::f32), layout));
    const Graph& graph = programs.graph("train");
    int checked = 0;
    for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
      const Node& node = graph.nodes[n];
      const bool chunk = is_collective(node) && node.label.ends_with("/4");
      const bool alone = node.label.ends_with(node.phase == Phase::Forward ? "enter 1/4" : "leave 1/4") ||
                         node.label.ends_with("leave 4/4");
      if (!chunk || alone) continue;  // at the ends of a linear there may be no product to run beside
      EXPECT_GT(flops_beside(graph, programs.plan.program("train"), n), 0) << phase_name(node.phase) << node.label;
      ++checked;
    }
    EXPECT_GT(checked, 2 * 2 * 2 * 2);
  }
}

// What the sizer looks at is what is cut.
TEST(Overlap, SplitLinearsAreThoseThatAreCut) {
  for (const bool sequence : {false, true}) {
    ProgramOptions o =
        on_layout(options_of(ModelFamily::Llama, DType::f32), {.mesh = {.tensor = 2}, .sequence = sequence});
    Graph graph = rewritten_graph(o).graph;
    std::multiset<std::string> named, cut;
    for (const SplitLinear& linear : split_linears(graph)) {
      for (const std::size_t n : {linear.product, linear.collective})
        named.insert(
            fmt::format("{} {} {} 1/2", graph.nodes[n].layer, phase_name(graph.nodes[n].phase), graph.nodes[n].label));
      EXPECT_TRUE(is_collective(graph.nodes[linear.collective]));
    }
    overlap_linears(graph, 2);
    for (const Node& node : graph.nodes) {
      if (node.label.ends_with(" 1/2"))
        cut.insert(fmt::format("{} {} {}", node.layer, phase_name(node.phase), node.label));
    }
    EXPECT_EQ(named, cut);
    EXPECT_GE(cut.size(), 2U * 2 * 2 * 2) << "two layers, forward and backward, two linears with a collective each";
  }
}

TEST(Overlap, WhatDoesNotDivideIsNamed) {
  EXPECT_EQ(tensor_chunks_fault(3, 8, false, 4), std::nullopt);
  EXPECT_NE(tensor_chunks_fault(3, 8, true, 4)->find("3 sequence(s)"), std::string::npos);
  EXPECT_NE(tensor_chunks_fault(3, 8, false, 5)->find("24 tokens"), std::string::npos);
  const Layout layout{.mesh = {.tensor = 2}, .tensor_chunks = 5};
  try {
    build_programs(on_layout(options_of(ModelFamily::Gpt2, DType::f32), layout));
    FAIL() << "5 chunks of 48 tokens";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Config);
    EXPECT_NE(std::string(error.what()).find("parallel.tensor_chunks"), std::string::npos);
  }
}

}  // namespace
}  // namespace plimsoll
