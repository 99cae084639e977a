// Costs from a description: rooflines of nodes, lines of links, and both on two streams.

#include "runtime/plan/cost.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "runtime/core/error.hpp"
#include "runtime/graph/autodiff.hpp"
#include "runtime/graph/offload.hpp"
#include "runtime/model/transformer.hpp"

namespace plimsoll {
namespace {

ClusterDescription simple_cluster() {
  ClusterDescription c;
  c.device.matmul = {1e12, 2e12, 4e12, 0};
  c.device.attention = {0.5e12, 1e12, 2e12, 0};
  c.device.memory_bytes_per_s = 1e12;
  c.device.kernel_overhead_s = 1e-6;
  c.devices_per_node = 8;
  c.inside = {1e-6, 100e9};
  c.between = {10e-6, 10e9};
  return c;
}

ModelConfig small_model() {
  ModelConfig m = family_defaults(ModelFamily::Llama);
  m.layers = 2;
  m.hidden = 64;
  m.heads = 4;
  m.kv_heads = 2;
  m.ffn = 128;
  m.vocabulary = 1000;
  m.positions = 256;
  return resolve(m);
}

double seconds_of(std::string_view op, Phase phase, const ClusterDescription& cluster,
                  std::int64_t* traffic = nullptr) {
  Graph graph = build_transformer(small_model(), {2, 128});
  add_backward(graph);
  for (const Node& node : graph.nodes) {
    if (op_info(node.op).name != op || node.phase != phase) continue;
    if (traffic != nullptr) *traffic = traffic_bytes(graph, node);
    return DescribedCosts(cluster).node_seconds(graph, node);
  }
  ADD_FAILURE() << "no " << op;
  return 0;
}

TEST(Cost, ProductsByFlopsAttentionByFlopsTheRestByBytes) {
  ClusterDescription c = simple_cluster();
  c.device.memory_bytes_per_s = 1e15;
  // The first linear is qkv: 256 rows, 64 -> (4 + 2 · 2) · 16.
  EXPECT_DOUBLE_EQ(seconds_of("linear", Phase::Forward, c), 2.0 * 256 * 64 * 128 / 2e12 + 1e-6);
  // Causal pairs of 128 positions, two products, 4 heads of 16, 2 sequences.
  const double pairs = 128.0 * 129 / 2;
  EXPECT_DOUBLE_EQ(seconds_of("attention", Phase::Forward, c), 2 * 2 * pairs * 16 * 4 * 2 / 1e12 + 1e-6);
  c = simple_cluster();
  c.device.matmul = c.device.attention = {1e18, 1e18, 1e18, 1e18};
  std::int64_t traffic = 0;
  // gate and up [256, 2 · 128] read, [256, 128] written.
  EXPECT_DOUBLE_EQ(seconds_of("swiglu", Phase::Forward, c, &traffic), 256.0 * 3 * 128 * 4 / 1e12 + 1e-6);
  EXPECT_EQ(traffic, 256 * 3 * 128 * 4);
}

// Each product at the rate of fp8, behind passes over the operands that it makes.
TEST(Cost, LinearsInFp8HaveARateOfTheirOwn) {
  ClusterDescription c = simple_cluster();
  c.device.matmul.fp8 = 8e9;  // so slow that no product waits for memory
  ModelShape shape{2, 128};
  shape.dtype = DType::bf16;
  shape.fp8 = true;
  Graph graph = build_transformer(small_model(), shape);
  add_backward(graph);
  // The first linear is qkv: 256 rows, 64 -> 128. Numbers of bf16 are read and written as bytes.
  const double product = 2.0 * 256 * 64 * 128 / 8e9 + 1e-6;
  const auto made = [](double elements) { return 3 * elements / 1e12 + 1e-6; };
  const std::pair<Phase, double> expected[] = {{Phase::Forward, product + made(64 * 128)},
                                               {Phase::InputGrad, product + made(256 * 128) + made(64 * 128)},
                                               {Phase::WeightGrad, product + made(256 * 128) + made(256 * 64)}};
  for (const auto& [phase, seconds] : expected) {
    const auto node = std::find_if(graph.nodes.begin(), graph.nodes.end(), [&, p = phase](const Node& n) {
      return n.op == op_id<LinearFp8> && n.phase == p && n.label.ends_with("qkv");
    });
    ASSERT_NE(node, graph.nodes.end());
    EXPECT_DOUBLE_EQ(DescribedCosts(c).node_seconds(graph, *node), seconds) << phase_name(phase);
    EXPECT_THROW(static_cast<void>(DescribedCosts(simple_cluster()).node_seconds(graph, *node)), Error);
  }
}

// Seconds of the first attention, in forward and backward.
std::pair<double, double> attention_seconds(const ModelConfig& model, const ModelShape& shape,
                                            const DescribedCosts& costs) {
  Graph graph = build_transformer(model, shape);
  add_backward(graph);
  const auto of = [&](Phase phase) {
    const auto node = std::find_if(graph.nodes.begin(), graph.nodes.end(),
                                   [&](const Node& n) { return n.op == op_id<Attention> && n.phase == phase; });
    return costs.node_seconds(graph, *node);
  };
  return {of(Phase::Forward), of(Phase::InputGrad)};
}

// What no library of a GPU takes is made of floats, and backward makes scores twice; on a CPU nothing of that holds.
TEST(Cost, AttentionThatIsNotFusedIsPricedInFloats) {
  ClusterDescription c = simple_cluster();
  c.device.memory_bytes_per_s = 1e18;
  c.device.kernel_overhead_s = 0;
  c.device.attention = {0.5e12, 1e12, 8e12, 4e12};
  const DescribedCosts host(c), gpu(c, KernelsOf::Gpu);
  struct Case {
    std::string_view what;
    DType dtype;
    bool forward_fused, backward_fused;
    std::int64_t head_dim = 16, sequence = 128;
    double dropout = 0;
    FusedHeads fused_heads = {};
  };
  for (const Case& k :
       {Case{"bf16", DType::bf16, true, true}, Case{"fp16", DType::f16, true, true},
        Case{"fp32", DType::f32, false, false}, Case{"odd heads", DType::bf16, false, false, 20},
        Case{"wide heads", DType::bf16, false, false, 136},
        Case{"wide heads of an A100", DType::bf16, true, false, 136, 128, 0, {256, 128}},
        Case{"wide heads of an H100", DType::bf16, true, true, 136, 128, 0, {256, 256}},
        Case{"no library", DType::bf16, false, false, 16, 128, 0, {0, 0}},
        Case{"dropout", DType::f16, false, false, 16, 128, 0.1}, Case{"in slices", DType::bf16, true, true, 16, 16384},
        Case{"too much for a slice", DType::bf16, true, false, 16, 65536}}) {
    SCOPED_TRACE(k.what);
    ModelConfig model = small_model();
    model.head_dim = k.head_dim;
    model.positions = k.sequence;
    model.dropout = k.dropout;
    ModelShape shape{2, k.sequence};
    shape.dtype = k.dtype;
    shape.dropout = k.dropout > 0;
    shape.fused_heads = k.fused_heads;
    const auto length = static_cast<double>(k.sequence), d = static_cast<double>(k.head_dim);
    const double flops = 2 * 2 * (length * (length + 1) / 2) * d * 4 * 2;  // two products, 4 heads, 2 sequences
    const double rate = c.device.attention.of(k.dtype), floats = 1e12;
    const auto [forward, backward] = attention_seconds(model, shape, gpu);
    EXPECT_DOUBLE_EQ(forward, flops / (k.forward_fused ? rate : floats));
    EXPECT_DOUBLE_EQ(backward, k.backward_fused ? 2 * flops / rate : 3.5 * flops / floats);
    const auto [host_forward, host_backward] = attention_seconds(model, shape, host);
    EXPECT_DOUBLE_EQ(host_forward, flops / rate);
    EXPECT_DOUBLE_EQ(host_backward, 2 * flops / rate);
  }
}

TEST(Cost, AnEmbeddingTouchesRowsNotItsTable) {
  std::int64_t traffic = 0;
  seconds_of("embedding", Phase::Forward, simple_cluster(), &traffic);
  EXPECT_EQ(traffic, 2 * 128 * 4 + 2 * 256 * 64 * 4);  // tokens, rows read, rows written; the table has 256000 bytes
}

TEST(Cost, WhereAGroupWasMeasuredItsTableCounts) {
  ClusterDescription c = simple_cluster();
  c.measured.push_back({"data", LinkOperation::AllReduce, 4, 2, {1024, 2048}, {1e-3, 3e-3}});
  const DescribedCosts costs(c), lines(simple_cluster());
  EXPECT_DOUBLE_EQ(costs.collective_seconds(CollectiveKind::AllReduce, 2048, 4, 2), 3e-3);
  EXPECT_DOUBLE_EQ(costs.collective_seconds(CollectiveKind::AllReduce, 4096, 4, 2), 7e-3);
  // Another operation, number of ranks or distance between them was not measured.
  for (const auto& [kind, ranks, stride] : {std::tuple{CollectiveKind::AllGather, 4, 2},
                                            {CollectiveKind::AllReduce, 2, 2},
                                            {CollectiveKind::AllReduce, 4, 1}})
    EXPECT_DOUBLE_EQ(costs.collective_seconds(kind, 2048, ranks, stride),
                     lines.collective_seconds(kind, 2048, ranks, stride));
}

// The clock that gradients are sized by is the one that predicts the step.
TEST(Cost, NodesEndWhereTheStepSays) {
  Graph graph = build_transformer(small_model(), {2, 128});
  add_backward(graph);
  const DescribedCosts costs(simple_cluster());
  const auto stride = [](std::string_view) { return 1; };
  const NodeTimes times = time_nodes(graph, costs, stride);
  const std::vector<double> ends = node_ends(graph, costs, stride, Variant::Only);
  ASSERT_EQ(ends.size(), graph.nodes.size());
  EXPECT_TRUE(std::is_sorted(ends.begin(), ends.end())) << "one rank has one stream";
  EXPECT_NEAR(ends.back(), times.forward_s + times.backward_s, 1e-12);
  EXPECT_NEAR(ends[graph.backward_begin - 1], times.forward_s, 1e-12);
}

TEST(Cost, CopiesTakeTheLinkToTheHostBesideCompute) {
  ClusterDescription c = simple_cluster();
  c.device.host = {5e-6, 1e9};
  Graph graph = build_transformer(small_model(), {2, 128});
  add_backward(graph);
  const DescribedCosts costs(c);
  const auto stride = [](std::string_view) { return 1; };
  const NodeTimes kept = time_nodes(graph, costs, stride);
  const std::vector<LayerRecompute> layers(2, {RecomputeMode::Offload, {}});
  offload(graph, offloaded_values(graph, layers));
  double there = 0, back = 0;
  for (const Node& node : graph.nodes) {
    if (node.stream != StreamKind::Copy) continue;
    const double seconds = costs.node_seconds(graph, node);
    EXPECT_DOUBLE_EQ(seconds, 5e-6 + static_cast<double>(node.specs[0].bytes()) / 1e9);
    (node.op == op_id<ToHost> ? there : back) += seconds;
  }
  // A slow link: a section takes at least as long as its copies, and less than copies and compute one after another.
  const NodeTimes offloaded = time_nodes(graph, costs, stride);
  EXPECT_GT(there, 2 * kept.forward_s);
  EXPECT_GE(offloaded.forward_s, there);
  EXPECT_LT(offloaded.forward_s, there + kept.forward_s);
  EXPECT_GE(offloaded.backward_s, back);
  EXPECT_LT(offloaded.backward_s, back + kept.backward_s);
  EXPECT_GT(offloaded.exposed_backward_s, kept.exposed_backward_s);
}

TEST(Cost, CollectivesTakeTheirRoundsAndTheBytesOfTheFormulas) {
  const DescribedCosts costs(simple_cluster());
  const std::int64_t m = 64 << 20;
  EXPECT_DOUBLE_EQ(costs.collective_seconds(CollectiveKind::AllReduce, m, 4, 1), 2 * 2 * 1e-6 + 1.5 * m / 100e9);
  EXPECT_DOUBLE_EQ(costs.collective_seconds(CollectiveKind::AllGather, m, 8, 1), 3 * 1e-6 + 0.875 * m / 100e9);
  // Two ranks that are a node apart, and sixteen neighbours: not within a node.
  EXPECT_DOUBLE_EQ(costs.collective_seconds(CollectiveKind::ReduceScatter, m, 2, 8), 10e-6 + 0.5 * m / 10e9);
  EXPECT_DOUBLE_EQ(costs.collective_seconds(CollectiveKind::ReduceScatter, m, 16, 1), 4 * 10e-6 + 0.9375 * m / 10e9);
  EXPECT_EQ(costs.collective_seconds(CollectiveKind::AllReduce, m, 1, 1), 0);
}

// All ranks wait for the one that has most.
TEST(Cost, UnevenPartsTakeAsLongAsTheLargest) {
  CollectiveCall call;
  call.ranks = 4;
  call.kind = CollectiveKind::AllGather;
  call.elements = 4096;
  EXPECT_EQ(call.paced_bytes(), call.bytes());
  call.cuts = {0, 1024, 2048, 3072, 4096};
  EXPECT_EQ(call.paced_bytes(), call.bytes());
  call.cuts = {0, 512, 3072, 3072, 4096};
  EXPECT_EQ(call.paced_bytes(), 4 * 2560 * 4);
}

TEST(Cost, APrecisionWithoutARateIsRefused) {
  ClusterDescription c = simple_cluster();
  c.device.matmul.fp32 = 0;
  EXPECT_THROW(seconds_of("linear", Phase::Forward, c), Error);
  EXPECT_THROW(seconds_of("linear", Phase::WeightGrad, c), Error);
}

// A GPU has no products in fp64 here, and adds the loss up in it.
TEST(Cost, SumsNeedNoRateOfTheirPrecision) {
  ClusterDescription c = simple_cluster();
  Graph graph;
  Node node;
  node.op = op_id<Scale>;
  node.attrs = Attrs(std::in_place_index<op_id<Scale>>, Scale::Attrs{0.5});
  for (const int slot : {int{Scale::kX}, int{Scale::kY}}) {
    Value pair;
    pair.spec = {{2}, DType::f64};
    node.specs.set(slot, pair.spec);
    node.value[static_cast<std::size_t>(slot)] = graph.add_value(pair);
  }
  c.device.matmul.fp64 = 0;
  const double seconds = DescribedCosts(c).node_seconds(graph, node);
  EXPECT_DOUBLE_EQ(seconds, 2 * 16 / 1e12 + 1e-6);
}

TEST(Cost, NodesOfOneStreamFollowEachOther) {
  Graph graph = build_transformer(small_model(), {2, 128});
  add_backward(graph);
  const DescribedCosts costs(simple_cluster());
  double forward = 0, backward = 0, weights = 0;
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    const double s = costs.node_seconds(graph, graph.nodes[n]);
    (n < graph.backward_begin ? forward : backward) += s;
    weights += graph.nodes[n].phase == Phase::WeightGrad ? s : 0;
  }
  const NodeTimes t = time_nodes(graph, costs, [](std::string_view) { return 1; });
  EXPECT_NEAR(t.forward_s, forward, 1e-12);
  EXPECT_NEAR(t.backward_s, backward, 1e-12);
  EXPECT_NEAR(t.weight_grad_s, weights, 1e-12);
  EXPECT_NEAR(t.exposed_forward_s + t.exposed_backward_s, 0, 1e-12);
}

}  // namespace
}  // namespace plimsoll
