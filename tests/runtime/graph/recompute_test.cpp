// Recomputation: which values a layer offers, where the copies stand, and that no bit of a run changes.

#include "runtime/graph/recompute.hpp"

#include <gtest/gtest.h>

#include <set>

#include "runtime/graph/autodiff.hpp"
#include "tests/launch/tiny_run.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr int kLayers = 3;

ProgramOptions options_of(ModelFamily family, double dropout = 0) {
  ProgramOptions o = tiny_options(family);
  o.model.layers = kLayers;
  o.model.dropout = dropout;
  return o;
}

std::vector<LayerRecompute> all(RecomputeMode mode) { return std::vector<LayerRecompute>(kLayers, {mode, {}}); }

using Names = std::set<std::string>;

Names names_where(const Graph& graph, int layer, bool (*condition)(const RecomputableValue&)) {
  Names names;
  for (const RecomputableValue& v : recomputable_values(graph, layer)) {
    if (condition(v)) names.insert(v.name);
  }
  return names;
}
bool is_boundary(const RecomputableValue& v) { return v.boundary; }
bool is_read(const RecomputableValue& v) { return v.backward_reads; }

TEST(RecomputableValues, OfTheFamilies) {
  const Graph gpt2 = tiny_training_graph(options_of(ModelFamily::Gpt2, 0.1)),
              llama = tiny_training_graph(options_of(ModelFamily::Llama));
  EXPECT_EQ(names_where(gpt2, 0, is_boundary), Names{}) << "its input is the embedding";
  EXPECT_EQ(names_where(gpt2, 1, is_boundary), Names{"ln_1.sum"});
  EXPECT_EQ(names_where(llama, 2, is_boundary), Names{"input_layernorm.sum"});
  EXPECT_EQ(names_where(gpt2, 1, is_read),
            (Names{"ln_1.sum", "ln_1.y", "ln_1.mean", "ln_1.rstd", "attention.qkv.y", "attention.out", "attention.lse",
                   "ln_2.sum", "ln_2.y", "ln_2.mean", "ln_2.rstd", "mlp.up.y", "mlp.up.pre"}));
  EXPECT_EQ(names_where(llama, 0, is_read),
            (Names{"input_layernorm.y", "input_layernorm.rstd", "attention.rope.y", "attention.out", "attention.lse",
                   "post_attention_layernorm.sum", "post_attention_layernorm.y", "post_attention_layernorm.rstd",
                   "mlp.gate_up.y", "mlp.swiglu.y"}));
  for (const RecomputableValue& v : recomputable_values(gpt2, 1)) {
    EXPECT_EQ(v.bytes, gpt2[v.value].spec.bytes());
    if (v.name == "mlp.up.y") {
      EXPECT_EQ(gpt2[v.again_from].name, "1.mlp.up.pre");
    }
    if (v.name == "attention.out") {
      EXPECT_EQ(gpt2[v.inputs.at(0)].name, "1.attention.qkv.y");
    }
  }
  EXPECT_EQ(layers_of(gpt2), (std::vector<int>{0, 1, 2}));
}

// Every copy is read, stands before the first backward node that needs it, and no node is copied twice.
void expect_just_in_time(const Graph& graph) {
  ASSERT_EQ(verify(graph), std::nullopt);
  std::set<std::string> seen;
  std::set<ValueId> waiting;  // made by the copies since the last backward node that is none
  for (std::size_t n = graph.backward_begin; n < graph.update_begin; ++n) {
    const Node& node = graph.nodes[n];
    const auto slots = op_info(node.op).slots;
    bool reads_waiting = waiting.empty();
    for (std::size_t s = 0; s < slots.size(); ++s) {
      const bool made = node.again && (slots[s].role == Role::Output || slots[s].role == Role::Stat);
      if (!made) reads_waiting = waiting.erase(node.value[s]) > 0 || reads_waiting;
    }
    EXPECT_TRUE(reads_waiting || node.again) << node.label << " does not need what was made right before it";
    if (!node.again) waiting.clear();
    if (!node.again) continue;
    EXPECT_TRUE(seen.insert(fmt::format("{}.{}", node.layer, node.label)).second) << node.label;
    bool new_output = false;
    for (std::size_t s = 0; s < slots.size(); ++s) {
      if (slots[s].role != Role::Output && slots[s].role != Role::Stat) continue;
      if (node.value[s] != kNoValue) waiting.insert(node.value[s]), new_output = true;
    }
    EXPECT_TRUE(new_output);
  }
}

TEST(Recompute, FullKeepsTheBoundaryOnly) {
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    ProgramOptions o = options_of(family);
    o.recompute = all(RecomputeMode::Full);
    const Programs programs = build_programs(o);
    const Graph& graph = programs.graph("train");
    expect_just_in_time(graph);
    std::int64_t kept = 0;
    for (const Value& v : graph.values) {
      if (v.layer >= 0 && v.base == kNoValue && v.memory == MemoryClass::Activations) kept += v.spec.bytes();
    }
    // The input of the first layer is the embedding's output; behind the last one the head's norm has its sum in the
    // memory of the layer.
    EXPECT_EQ(kept, kLayers * o.micro_batch * o.sequence * o.model.hidden * dtype_bytes(o.dtype));
  }
}

TEST(Recompute, SelectiveDropsTheAttentionCore) {
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    ProgramOptions o = options_of(family);
    o.recompute = all(RecomputeMode::Selective);
    const Programs programs = build_programs(o);
    const Graph& graph = programs.graph("train");
    expect_just_in_time(graph);
    std::int64_t copies = 0;
    for (const Node& node : graph.nodes) {
      if (!node.again) continue;
      EXPECT_EQ(op_info(node.op).name, "attention");
      ++copies;
    }
    EXPECT_EQ(copies, kLayers);
  }
}

// The activation of a linear, and norms behind a kept sum, need no matrix product.
TEST(Recompute, CheaperWaysWhereTheirSourceIsKept) {
  ProgramOptions o = options_of(ModelFamily::Gpt2);
  Graph graph = tiny_training_graph(o);
  KeepSets keep;
  for (const RecomputableValue& v : recomputable_values(graph, 1)) {
    if (v.name != "mlp.up.y" && v.name != "ln_2.y") keep[1].push_back(v.value);
  }
  recompute(graph, keep);
  expect_just_in_time(graph);
  std::multiset<std::string_view> ops;
  for (const Node& node : graph.nodes) {
    if (node.again) ops.insert(op_info(node.op).name);
  }
  EXPECT_EQ(ops, (std::multiset<std::string_view>{"activate", "layer_norm"}));
}

TEST(Recompute, FlopsOfFullAreThoseOfForwardWithoutTheLastProducts) {
  ProgramOptions o = options_of(ModelFamily::Gpt2);
  const Programs none = build_programs(o);
  o.recompute = all(RecomputeMode::Full);
  const Programs full = build_programs(o);
  EXPECT_EQ(none.recompute_flops_per_micro_batch, 0);
  EXPECT_EQ(full.rank_flops_per_micro_batch, none.rank_flops_per_micro_batch);
  EXPECT_EQ(full.train_flops_per_micro_batch, none.train_flops_per_micro_batch) << "MFU counts the model's work";
  std::int64_t expected = 0;
  for (const Node& node : none.graph("train").nodes) {
    const bool layer = node.phase == Phase::Forward && node.layer >= 0;
    // Nothing in the layer reads what these make; the sum of ln_1 is kept, and it is a norm of its own then.
    if (!layer || node.label == "mlp.down") continue;
    if (node.layer > 0 && node.label == "ln_1") {
      expected += op_info("layer_norm")
                      .flops(
                          Attrs(std::in_place_index<op_id<LayerNorm>>),
                          [&] {
                            SlotSpecs s;
                            s.set(LayerNorm::kX, node.specs[AddLayerNorm::kSum]);
                            return s;
                          }(),
                          Phase::Forward);
    } else {
      expected += op_info(node.op).flops(node.attrs, node.specs, Phase::Forward);
    }
  }
  EXPECT_EQ(full.recompute_flops_per_micro_batch, expected);
}

TEST(Recompute, RefusesWhatItCannotKeep) {
  Graph graph = tiny_training_graph(options_of(ModelFamily::Gpt2));
  const ValueId of_one = recomputable_values(graph, 1).front().value;
  EXPECT_THROW(recompute(graph, {{2, {of_one}}}), Error);
  EXPECT_THROW(recompute(graph, {{0, {graph.find("tokens")}}}), Error);
  ProgramOptions o = options_of(ModelFamily::Gpt2);
  o.recompute.assign(kLayers, {RecomputeMode::Auto, {"no.such"}});
  EXPECT_THROW(build_programs(o), Error);
}

struct Outcome {
  std::vector<double> losses, gradients, parameters;
  std::int64_t planned = 0, high_water = 0;
  bool operator==(const Outcome& other) const {
    return losses == other.losses && gradients == other.gradients && parameters == other.parameters;
  }
};

Outcome run_of(const ProgramOptions& o, bool poison = false) {
  Programs programs = build_programs(o);
  EXPECT_EQ(check_memory(programs.list(), programs.plan), std::nullopt);
  Engine engine(std::move(programs), {1, poison, {}, nullptr});
  engine.initialise(1);
  Outcome run;
  for (std::int64_t step = 0; step < 3; ++step) {
    run.losses.push_back(tiny_step(engine, o, step, 0, 2 * o.micro_batch, 2 * o.micro_batch).loss());
    const std::vector<double> g = region_values(engine, "gradients");
    run.gradients.insert(run.gradients.end(), g.begin(), g.end());
  }
  run.parameters = region_values(engine, "parameters");
  run.planned = engine.programs().plan.total_bytes;
  run.high_water = engine.arena().high_water();
  return run;
}

TEST(Recompute, NoModeChangesABit) {
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    ProgramOptions o = options_of(family, family == ModelFamily::Gpt2 ? 0.2 : 0);
    o.model.qk_norm = family == ModelFamily::Llama;
    o.sequence = 40;
    const Outcome none = run_of(o);
    ASSERT_TRUE(std::isfinite(none.losses.back()));
    for (const auto& layers :
         {all(RecomputeMode::Full), all(RecomputeMode::Selective),
          std::vector<LayerRecompute>{
              {RecomputeMode::None, {}}, {RecomputeMode::Full, {}}, {RecomputeMode::Selective, {}}}}) {
      o.recompute = layers;
      const Outcome run = run_of(o);
      EXPECT_TRUE(run == none);
      EXPECT_LT(run.planned, none.planned);
      EXPECT_EQ(run.high_water, run.planned);
      EXPECT_TRUE(run_of(o, true) == none) << "poisoned";
    }
  }
}

// Any choice, also of values that backward does not read, and without boundaries, where layers become one segment.
TEST(Recompute, NoKeepSetChangesABit) {
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    ProgramOptions o = options_of(family, family == ModelFamily::Gpt2 ? 0.2 : 0);
    const Outcome none = run_of(o);
    const Graph graph = tiny_training_graph(o);
    for (std::uint64_t choice = 0; choice < 12; ++choice) {
      SCOPED_TRACE(choice);
      const RandomStream random(choice, "keep");
      std::uint64_t at = 0;
      o.recompute.assign(kLayers, {RecomputeMode::Auto, {}});
      for (int layer = 0; layer < kLayers; ++layer) {
        for (const RecomputableValue& v : recomputable_values(graph, layer)) {
          if (random.uniform(at++) < 0.1 * static_cast<double>(choice % 6))
            o.recompute[static_cast<std::size_t>(layer)].keep.push_back(v.name);
        }
      }
      expect_just_in_time(build_programs(o).graph("train"));
      EXPECT_TRUE(run_of(o, choice % 2 == 1) == none);
    }
  }
}

}  // namespace
}  // namespace plimsoll
