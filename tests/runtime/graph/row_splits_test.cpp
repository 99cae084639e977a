// Row-splits: what is wide exists for one block of rows at a time, and the numbers are those of whole products to
// rounding.

#include "runtime/graph/row_splits.hpp"

#include <gtest/gtest.h>

#include "tests/launch/tiny_run.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr int kLayers = 3;

// 64 rows; GPT-2 with dropout.
ProgramOptions options_of(ModelFamily family) {
  ProgramOptions o = tiny_options(family);
  o.model.layers = kLayers;
  o.sequence = 32;
  if (family == ModelFamily::Gpt2) o.model.dropout = 0.2;
  return o;
}

std::vector<LayerRecompute> full(std::int64_t rows) {
  return std::vector<LayerRecompute>(kLayers, {RecomputeMode::Full, {}, {}, rows});
}

TEST(RowBlock, IsTheMlpBetweenItsNormAndWhatItAdds) {
  const Graph gpt2 = tiny_training_graph(options_of(ModelFamily::Gpt2)),
              llama = tiny_training_graph(options_of(ModelFamily::Llama));
  const auto names = [](const Graph& graph, const std::set<ValueId>& values) {
    std::set<std::string> found;
    for (const ValueId v : values) found.insert(graph[v].name);
    return found;
  };
  using Names = std::set<std::string>;
  const auto of_gpt2 = row_block(gpt2, 1), of_llama = row_block(llama, 2);
  ASSERT_TRUE(of_gpt2 && of_llama);
  EXPECT_EQ(of_gpt2->labels, (Names{"mlp.up", "mlp.down"}));
  EXPECT_EQ(names(gpt2, of_gpt2->wide), (Names{"1.mlp.up.y", "1.mlp.up.pre"}));
  EXPECT_EQ(of_llama->labels, (Names{"mlp.gate_up", "mlp.swiglu", "mlp.down"}));
  EXPECT_EQ(names(llama, of_llama->wide), (Names{"2.mlp.gate_up.y", "2.mlp.swiglu.y"}));
  EXPECT_FALSE(row_block(llama, kLayers));
}

// Bytes of the largest value of layers that is not persistent and as wide as the inner linears of the MLP.
std::int64_t widest_bytes(const Graph& graph, const ModelConfig& model) {
  std::int64_t most = 0;
  for (const Value& v : graph.values) {
    const bool wide = v.spec.last() == model.ffn || v.spec.last() == 2 * model.ffn;
    if (v.layer >= 0 && !v.persistent && v.base == kNoValue && wide) most = std::max(most, v.spec.bytes());
  }
  return most;
}

// Also values that nothing touches any more are there, so only roots that a node touches count.
Graph touched_only(const Graph& graph) {
  Graph some = graph;
  std::vector<bool> touched(graph.values.size(), false);
  for (const Node& node : graph.nodes) {
    for_each_access(graph, node,
                    [&](const MemoryAccess& a) { touched[static_cast<std::size_t>(graph.root(a.value))] = true; });
  }
  for (std::size_t v = 0; v < touched.size(); ++v) {
    if (!touched[v]) some.values[v].layer = -1;
  }
  return some;
}

TEST(RowSplits, NothingWideExistsAsAWhole) {
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    ProgramOptions o = options_of(family);
    o.evaluate = true;
    o.recompute = full(1);
    const Programs whole = build_programs(o);
    const std::int64_t bytes = widest_bytes(touched_only(whole.graph("train")), o.model);
    for (const std::int64_t rows : {2, 8}) {
      o.recompute = full(rows);
      const Programs split = build_programs(o);
      EXPECT_EQ(check_memory(split.list(), split.plan), std::nullopt);
      for (const char* program : {"train", "evaluate"})
        EXPECT_EQ(widest_bytes(touched_only(split.graph(program)), o.model), bytes / rows) << program;
      EXPECT_EQ(split.rank_flops_per_micro_batch, whole.rank_flops_per_micro_batch);
      EXPECT_EQ(split.recompute_flops_per_micro_batch, whole.recompute_flops_per_micro_batch);
    }
  }
}

// By tensor, of the first step.
struct Outcome {
  double loss = 0;
  std::vector<std::string> names;
  std::vector<std::vector<double>> gradients;
  std::vector<double> parameters;  // after three steps
  std::int64_t planned = 0, high_water = 0;
};

Outcome run_of(const ProgramOptions& o, bool poison = false) {
  Programs programs = build_programs(o);
  EXPECT_EQ(check_memory(programs.list(), programs.plan), std::nullopt);
  Engine engine(std::move(programs), {1, poison, {}, nullptr});
  engine.initialise(1);
  Outcome run;
  for (std::int64_t step = 0; step < 3; ++step) {
    const double loss = tiny_step(engine, o, step, 0, 2 * o.micro_batch, 2 * o.micro_batch).loss();
    if (step > 0) continue;
    run.loss = loss;
    for (const NamedTensor& t : engine.tensors("gradients")) {
      run.names.push_back(t.name);
      run.gradients.emplace_back(static_cast<std::size_t>(t.spec.elements()));
      convert_elements(t.spec.dtype, t.data, DType::f64, run.gradients.back().data(), t.spec.elements());
    }
  }
  run.parameters = region_values(engine, "parameters");
  run.planned = engine.programs().plan.total_bytes;
  run.high_water = engine.arena().high_water();
  return run;
}

// ‖a - b‖ against ‖b‖, or against `least` where that is more: some gradients are zero but for rounding.
double difference(const std::vector<double>& a, const std::vector<double>& b, double least) {
  double sum = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(sum) / std::max(least, std::sqrt(norm));
}

double norm_of(const Outcome& run) {
  double norm = 0;
  for (const std::vector<double>& g : run.gradients) {
    for (const double x : g) norm += x * x;
  }
  return std::sqrt(norm);
}

TEST(RowSplits, GradientsAreThoseOfWholeProducts) {
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    for (const DType dtype : {DType::f32, DType::f64}) {
      ProgramOptions o = options_of(family);
      o.dtype = dtype;
      const Outcome none = run_of(o);
      o.recompute = full(1);
      const Outcome whole = run_of(o);
      const double enough = dtype == DType::f32 ? 1e-6 : 1e-14, small = 1e-3 * norm_of(none);
      for (const std::int64_t rows : {2, 4, 32}) {
        SCOPED_TRACE(fmt::format("{} rows, {}", rows, dtype_name(dtype)));
        o.recompute = full(rows);
        const Outcome run = run_of(o);
        EXPECT_NEAR(run.loss, none.loss, enough * none.loss);
        ASSERT_EQ(run.names, none.names);
        for (std::size_t t = 0; t < run.names.size(); ++t)
          EXPECT_LE(difference(run.gradients[t], none.gradients[t], small), enough) << run.names[t];
        EXPECT_LT(run.planned, whole.planned);
        EXPECT_EQ(run.high_water, run.planned);
        EXPECT_EQ(run_of(o, true).parameters, run.parameters) << "poisoned";
      }
      // Some layers only, with other keep-sets beside them.
      o.recompute = {{RecomputeMode::None, {}}, {RecomputeMode::Full, {}, {}, 4}, {RecomputeMode::Selective, {}}};
      const Outcome some = run_of(o);
      for (std::size_t t = 0; t < some.names.size(); ++t)
        EXPECT_LE(difference(some.gradients[t], none.gradients[t], small), enough) << some.names[t];
    }
  }
}

// Dropped boundaries before it make it the last of a segment, whose backward begins with all that is made again.
TEST(RowSplits, AtTheEndOfASegment) {
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    ProgramOptions o = options_of(family);
    const Outcome none = run_of(o);
    o.recompute = {{RecomputeMode::Full, {}}, {RecomputeMode::Auto, {}}, {RecomputeMode::Auto, {}, {}, 4}};
    const Outcome run = run_of(o);
    for (std::size_t t = 0; t < run.names.size(); ++t)
      EXPECT_LE(difference(run.gradients[t], none.gradients[t], 1e-3 * norm_of(none)), 1e-6) << run.names[t];
    EXPECT_EQ(run.high_water, run.planned);
  }
}

TEST(RowSplits, FaultsNameTheLayer) {
  using enum RecomputeMode;
  const ProgramOptions o = options_of(ModelFamily::Llama);
  const Graph graph = tiny_training_graph(o);
  const auto fault = [&](std::vector<LayerRecompute> layers) { return row_split_fault(graph, layers).value_or(""); };
  EXPECT_EQ(fault({}), "");
  EXPECT_EQ(fault(full(4)), "");
  EXPECT_EQ(fault(full(5)), "layer 0: 5 blocks do not divide the 64 rows of a micro-batch");
  EXPECT_EQ(fault({{None, {}}, {None, {}, {}, 2}, {None, {}}}),
            "layer 1 keeps 'mlp.gate_up.y', which exists for one block of rows at a time");
  EXPECT_EQ(fault({{None, {}}, {None, {}}, {Auto, {}, {"mlp.swiglu.y"}, 2}}),
            "layer 2 keeps 'mlp.swiglu.y', which exists for one block of rows at a time");
  EXPECT_EQ(fault({{None, {}}, {Full, {}, {}, 2}, {Auto, {}}}),
            "layer 1 is run again whole, since the boundary of layer 2 is not kept");
  EXPECT_EQ(fault({{None, {}}, {Full, {}}, {Auto, {}, {}, 2}}), "");
  ProgramOptions wrong = o;
  wrong.recompute = full(5);
  EXPECT_THROW(build_programs(wrong), Error);
}

}  // namespace
}  // namespace plimsoll
