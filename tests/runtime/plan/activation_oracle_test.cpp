// What backward needs of GPT-2 1558M at 16 sequences of 1024 tokens in bf16, counted from the values of our graph,
// beside the list that llm.c allocates (train_gpt2.cu, fill_in_activation_sizes, nothing recomputed): 40409 MiB.

#include <gtest/gtest.h>

#include <set>

#include "runtime/graph/autodiff.hpp"
#include "runtime/model/transformer.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kBatch = 16, kTokens = 1024, kLayers = 48, kMiB = 1 << 20;

ModelConfig gpt2_1558m() {
  ModelConfig m = family_defaults(ModelFamily::Gpt2);
  m.layers = kLayers;
  m.hidden = 1600;
  m.heads = 25;
  m.vocabulary = 50304;  // padded, as llm.c does
  m.positions = kTokens;
  return resolve(m);
}

Graph training_graph() {
  ModelShape shape{kBatch, kTokens, Head::Loss, DType::bf16};
  shape.logits_bytes = std::int64_t{1} << 40;  // all at once
  Graph graph = build_transformer(gpt2_1558m(), shape);
  add_backward(graph);
  share_forward_memory(graph);
  classify_memory(graph);
  return graph;
}

// Statistics are in fp32 there, whatever the activations are.
bool is_statistic(const std::string& name) {
  return name.ends_with(".mean") || name.ends_with(".rstd") || name.ends_with(".lse");
}
std::int64_t bytes_there(const Value& v) {
  return is_statistic(v.name) ? TensorSpec{v.spec.shape, DType::f32}.bytes() : v.spec.bytes();
}

struct Counted {
  std::int64_t layers = 0, rest = 0;
  std::set<std::string> kinds;  // names without the layer
};

// Values that stay from forward to backward. The sum that leaves the last layer is kept by the norm behind it.
Counted count_kept(const Graph& graph) {
  Counted counted;
  for (const Value& v : graph.values) {
    if (v.persistent || v.base != kNoValue || v.memory != MemoryClass::Activations) continue;
    const bool in_layer = (v.layer >= 0 && !is_statistic(v.name)) || v.name == "ln_f.sum";
    (in_layer ? counted.layers : counted.rest) += bytes_there(v);
    counted.kinds.insert(v.layer >= 0 ? v.name.substr(v.name.find('.') + 1) : v.name);
  }
  return counted;
}

std::int64_t logits_bytes(const Graph& graph) {
  for (const Node& node : graph.nodes) {
    if (node.op != op_id<CrossEntropy> || node.phase != Phase::InputGrad) continue;
    const auto& attrs = std::get<op_id<CrossEntropy>>(node.attrs);
    const std::int64_t rows = node.specs[CrossEntropy::kX].rows();
    EXPECT_EQ(attrs.rows_per_chunk(rows), rows);
    const TensorSpec logits{{rows, node.specs[CrossEntropy::kWeight].shape[0]}, DType::bf16};
    // Our plan holds them in the workspace, with a loss of 8 bytes per row.
    EXPECT_EQ(op_info(node.op).workspace_bytes(node.attrs, node.specs, node.phase, 1), logits.bytes() + rows * 8);
    return logits.bytes();
  }
  return 0;
}

// Gradients on their way through a layer: one as wide as the MLP and one as wide as the residual stream.
std::int64_t scratch_bytes(const Graph& graph) {
  std::int64_t wide = 0, narrow = 0;
  for (const Value& v : graph.values) {
    if (v.name == "grad.0.mlp.up.y") wide = v.spec.bytes();
    if (v.name == "grad.0.ln_1.y") narrow = v.spec.bytes();
  }
  return wide + narrow;
}

TEST(ActivationOracle, Gpt2Of1558MillionParametersKeepsWhatLlmCKeeps) {
  const Graph graph = training_graph();
  const Counted kept = count_kept(graph);
  EXPECT_EQ(kept.kinds,
            (std::set<std::string>{"embedding.y", "ln_1.sum", "ln_1.y", "ln_1.mean", "ln_1.rstd", "attention.qkv.y",
                                   "attention.out", "attention.lse", "ln_2.sum", "ln_2.y", "ln_2.mean", "ln_2.rstd",
                                   "mlp.up.pre", "mlp.up.y", "ln_f.sum", "ln_f.y", "ln_f.mean", "ln_f.rstd"}));
  const std::int64_t losses = TensorSpec{graph[graph.find("targets")].spec.shape, DType::f32}.bytes();
  const std::int64_t logits = logits_bytes(graph), scratch = scratch_bytes(graph), rest = kept.rest + losses;
  EXPECT_EQ(kept.layers / kMiB, 38400);
  EXPECT_EQ(kept.layers % kMiB, 0);
  EXPECT_EQ(logits / kMiB, 1572);
  EXPECT_EQ(logits % kMiB, 0);
  EXPECT_EQ(scratch / kMiB, 250);
  EXPECT_EQ(rest / kMiB, 187);
  EXPECT_EQ((kept.layers + logits + scratch + rest) / kMiB, 40409);
}

}  // namespace
}  // namespace plimsoll
