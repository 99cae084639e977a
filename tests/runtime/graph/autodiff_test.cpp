// Gradients of whole graphs, in fp64, against central differences of the loss.

#include "runtime/graph/autodiff.hpp"

#include <gtest/gtest.h>

#include "comm/collective_kernels.hpp"
#include "kernels/cpu/register.hpp"
#include "runtime/device/arena.hpp"
#include "runtime/exec/executor.hpp"
#include "tests/launch/tiny_run.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr double kStep = 1e-5;

// Differences on a sample of the elements of every tensor: `loss()` after each change of an element.
template <class Loss>
void expect_differences(const std::string& name, double* values, const double* gradient, std::int64_t count,
                        const Loss& loss) {
  const RandomStream random(3, name);
  const std::int64_t tries = std::min<std::int64_t>(count, 4);
  for (std::int64_t k = 0; k < tries; ++k) {
    const std::int64_t i =
        static_cast<std::int64_t>(random.bits(static_cast<std::uint64_t>(k)) % static_cast<std::uint64_t>(count));
    const double before = values[i];
    values[i] = before + kStep;
    const double up = loss();
    values[i] = before - kStep;
    const double down = loss();
    values[i] = before;
    const double expected = (up - down) / (2 * kStep);
    EXPECT_NEAR(gradient[i], expected, 1e-8 + 1e-6 * std::abs(expected)) << name << "[" << i << "]";
  }
}

void expect_model_gradients(ModelConfig model) {
  ProgramOptions o = tiny_options(model.family);
  model.init_std = 0.2;  // large enough for every path to matter
  o.model = model;
  o.dtype = DType::f64;
  o.evaluate = true;
  Engine engine(build_programs(o), {1, true, {}, nullptr});
  engine.initialise(5);
  const TinyBatch batch = tiny_batch(o, 0, 0, o.micro_batch);
  const auto tokens = static_cast<double>(batch.targets.size());
  engine.train_micro_batch(batch.tokens, batch.targets, Variant::Only, 1.0 / tokens, 0);
  engine.executor("train").synchronize();
  const auto parameters = engine.tensors("parameters"), gradients = engine.tensors("gradients");
  std::vector<std::vector<double>> kept;  // evaluation must not touch them
  for (const NamedTensor& t : gradients)
    kept.emplace_back(static_cast<double*>(t.data), static_cast<double*>(t.data) + t.spec.elements());
  const auto loss = [&] {
    double sum = 0, count = 0;
    engine.evaluate_micro_batch(batch.tokens, batch.targets, sum, count);
    return sum / count;
  };
  for (std::size_t p = 0; p < parameters.size(); ++p) {
    expect_differences(parameters[p].name, static_cast<double*>(parameters[p].data), kept[p].data(),
                       parameters[p].spec.elements(), loss);
  }
}

TEST(ModelGradients, Gpt2) { expect_model_gradients(tiny_model(ModelFamily::Gpt2)); }

TEST(ModelGradients, Gpt2WithoutBiasUntied) {
  ModelConfig m = tiny_model(ModelFamily::Gpt2);
  m.bias = false;
  m.tied = false;
  m.activation = Activation::GeluErf;
  expect_model_gradients(m);
}

TEST(ModelGradients, Llama) { expect_model_gradients(tiny_model(ModelFamily::Llama)); }

TEST(ModelGradients, LlamaTiedWithQueryKeyNormAndBias) {
  ModelConfig m = tiny_model(ModelFamily::Llama);
  m.tied = true;
  m.qk_norm = true;
  m.qkv_bias = true;
  expect_model_gradients(m);
}

// A graph of the test's own: embedding of 8 ids, whatever `body` makes of it, and a loss.
constexpr std::int64_t kWidth = 6, kIds = 8, kTokens = 5;

class SmallGraph {
 public:
  ValueId parameter(const std::string& name, Shape shape) {
    Value v;
    v.name = name;
    v.spec = {shape, DType::f64};
    v.persistent = true;
    v.memory = MemoryClass::Parameters;
    Parameter p;
    p.value = graph.add_value(std::move(v));
    p.parts = {{name, shape, 0}};
    graph.parameters.push_back(p);
    return p.value;
  }
  ValueId input(const std::string& name) {
    Value v;
    v.name = name;
    v.spec = {{1, kTokens}, DType::i32};
    v.persistent = true;
    v.memory = MemoryClass::Staging;
    return graph.named[name] = graph.add_value(std::move(v));
  }
  ValueId embed() {
    return add_node<Embedding>(
        graph, {},
        {{Embedding::kTokens, input("tokens")}, {Embedding::kWeight, parameter("embedding", {kIds, kWidth})}},
        "embedding", -1)[Embedding::kY];
  }
  ValueId add(ValueId a, ValueId b) {
    return add_node<Add>(graph, {}, {{Add::kA, a}, {Add::kB, b}}, "add", -1)[Add::kY];
  }
  ValueId activate(ValueId x, Activation kind = Activation::Silu) {
    return add_node<Activate>(graph, {kind}, {{Activate::kX, x}}, "activate", -1)[Activate::kY];
  }
  ValueId scale(ValueId x, double factor) {
    return add_node<Scale>(graph, {factor}, {{Scale::kX, x}}, "scale", -1)[Scale::kY];
  }
  ValueId linear(ValueId x, Activation activation = Activation::None) {
    const std::string name = fmt::format("linear{}", graph.parameters.size());
    return add_node<Linear>(graph, {false, activation},
                            {{Linear::kX, x}, {Linear::kWeight, parameter(name, {kWidth, kWidth})}}, name,
                            -1)[Linear::kY];
  }
  ValueId norm(ValueId x) {
    const std::string name = fmt::format("norm{}", graph.parameters.size());
    return add_node<RmsNorm>(graph, {}, {{RmsNorm::kX, x}, {RmsNorm::kWeight, parameter(name, {kWidth})}}, name,
                             -1)[RmsNorm::kY];
  }
  // {sum, y}
  std::pair<ValueId, ValueId> add_norm(ValueId x, ValueId residual) {
    const std::string name = fmt::format("norm{}", graph.parameters.size());
    const auto out = add_node<AddRmsNorm>(
        graph, {},
        {{AddRmsNorm::kX, x}, {AddRmsNorm::kResidual, residual}, {AddRmsNorm::kWeight, parameter(name, {kWidth})}},
        name, -1);
    return {out[AddRmsNorm::kSum], out[AddRmsNorm::kY]};
  }
  void loss(ValueId x) {
    const ValueId loss = add_node<CrossEntropy>(graph, {},
                                                {{CrossEntropy::kX, x},
                                                 {CrossEntropy::kWeight, parameter("head", {kIds, kWidth})},
                                                 {CrossEntropy::kTargets, input("targets")}},
                                                "loss", -1)[CrossEntropy::kLoss];
    graph[loss].persistent = true;
    graph[loss].memory = MemoryClass::Staging;
    graph.named["loss"] = loss;
  }

  Graph graph;
};

// The graph differentiated, planned and bound, with memory that is poisoned before and after its life.
class Runner {
 public:
  explicit Runner(Graph graph) : graph_(std::move(graph)), evaluate_(graph_), device_(make_cpu_device(1)) {
    add_backward(graph_);
    for (Graph* g : {&graph_, &evaluate_}) {
      share_forward_memory(*g);
      classify_memory(*g);
      const auto bad = verify(*g);
      EXPECT_FALSE(bad.has_value()) << bad.value_or("");
    }
    const std::array<Program, 2> programs{Program{"train", &graph_}, Program{"evaluate", &evaluate_}};
    plan_ = plan_memory(programs, 1);
    const auto bad = check_memory(programs, plan_);
    EXPECT_FALSE(bad.has_value()) << bad.value_or("");
    arena_ = std::make_unique<Arena>(*device_, plan_.total_bytes);
    device_->fill(arena_->base(), 0xFF, plan_.total_bytes);
    compute_ = device_->make_stream(StreamKind::Compute);
    kernels_ = cpu_kernels();
    ExecutorContext context{device_.get(), compute_.get(), nullptr, arena_->base(), &kernels_, {}, nullptr};
    train_ = std::make_unique<Executor>(graph_, plan_, plan_.program("train"), context, ExecutorOptions{1, true});
    eval_ = std::make_unique<Executor>(evaluate_, plan_, plan_.program("evaluate"), context, ExecutorOptions{1, true});
    train_->inputs() = StepInputs{};
    train_->inputs().loss_seed = 1.0 / kTokens;
    for (std::int64_t t = 0; t < kTokens; ++t) {
      train_->view("tokens").as<std::int32_t>()[t] = static_cast<std::int32_t>((t * 3) % kIds);
      train_->view("targets").as<std::int32_t>()[t] = static_cast<std::int32_t>((t * 5 + 1) % kIds);
    }
    const RandomStream random(9, "parameters");
    std::uint64_t draw = 0;
    for (const Parameter& p : graph_.parameters) {
      const View v = train_->view(p.value);
      for (std::int64_t i = 0; i < v.spec.elements(); ++i)
        v.as<double>()[i] = 0.5 * random.normal(draw++) + (v.spec.shape.rank() == 1 ? 1 : 0);
    }
  }
  void backward(Variant variant) {
    train_->run(Graph::Section::Forward);
    train_->run(Graph::Section::Backward, variant);
    train_->synchronize();
  }
  std::vector<std::vector<double>> gradients() {
    std::vector<std::vector<double>> all;
    for (const Parameter& p : graph_.parameters) {
      const View v = train_->view(p.gradient);
      all.emplace_back(v.as<double>(), v.as<double>() + v.spec.elements());
    }
    return all;
  }
  double loss() {
    eval_->run(Graph::Section::Forward);
    eval_->synchronize();
    return eval_->view("loss").as<double>()[0] / kTokens;
  }
  const Graph& graph() const { return graph_; }
  void expect_gradients() {
    backward(Variant::Only);
    EXPECT_NEAR(train_->view("loss").as<double>()[0] / kTokens, loss(), 1e-12);
    const auto analytic = gradients();
    for (std::size_t p = 0; p < analytic.size(); ++p) {
      const View v = train_->view(graph_.parameters[p].value);
      expect_differences(graph_[graph_.parameters[p].value].name, v.as<double>(), analytic[p].data(), v.spec.elements(),
                         [&] { return loss(); });
    }
  }

 private:
  Graph graph_, evaluate_;
  std::unique_ptr<Device> device_;
  MemoryPlan plan_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<Stream> compute_;
  KernelTable kernels_;
  std::unique_ptr<Executor> train_, eval_;
};

template <class Body>
Graph small_graph(const Body& body) {
  SmallGraph g;
  g.loss(body(g, g.embed()));
  return std::move(g.graph);
}

struct Hazard {
  std::string name;
  ValueId (*body)(SmallGraph&, ValueId);
};

class SharedGradients : public testing::TestWithParam<Hazard> {};

TEST_P(SharedGradients, AreTheDifferencesOfTheLoss) { Runner(small_graph(GetParam().body)).expect_gradients(); }

// Add gives both inputs one gradient tensor. Where one input is made from the other, or is used again, writing over it
// is wrong.
INSTANTIATE_TEST_SUITE_P(
    Graphs, SharedGradients,
    testing::Values(
        Hazard{"chain", [](SmallGraph& g, ValueId x) { return g.activate(g.linear(x)); }},
        Hazard{"residual_of_one_node", [](SmallGraph& g, ValueId x) { return g.add(x, g.activate(x)); }},
        Hazard{"residual_of_one_node_first", [](SmallGraph& g, ValueId x) { return g.add(g.activate(x), x); }},
        Hazard{"residual_of_scale", [](SmallGraph& g, ValueId x) { return g.add(x, g.scale(x, 0.3)); }},
        Hazard{"residual_of_linear", [](SmallGraph& g, ValueId x) { return g.add(x, g.linear(x)); }},
        Hazard{"residual_of_fused_linear",
               [](SmallGraph& g, ValueId x) { return g.add(x, g.linear(x, Activation::GeluTanh)); }},
        Hazard{"twice_the_same", [](SmallGraph& g, ValueId x) { return g.add(x, x); }},
        Hazard{"twice_the_same_behind_a_node",
               [](SmallGraph& g, ValueId x) {
                 const ValueId y = g.activate(x);
                 return g.add(y, y);
               }},
        Hazard{"two_residuals",
               [](SmallGraph& g, ValueId x) {
                 x = g.add(x, g.activate(g.linear(x)));
                 return g.add(x, g.linear(g.norm(x)));
               }},
        Hazard{"parallel_blocks",
               [](SmallGraph& g, ValueId x) {
                 const ValueId n = g.norm(x);
                 return g.add(g.add(x, g.linear(n)), g.linear(n, Activation::Silu));
               }},
        Hazard{
            "sum_of_three_uses",
            [](SmallGraph& g, ValueId x) { return g.add(g.add(g.activate(x), g.scale(x, 2)), g.add(x, g.linear(x))); }},
        Hazard{"fused_residual_norms",
               [](SmallGraph& g, ValueId x) {
                 const auto [sum, y] = g.add_norm(x, g.linear(g.norm(x)));
                 const auto [sum2, y2] = g.add_norm(sum, g.linear(y));
                 return g.add(y2, sum2);
               }},
        Hazard{"fused_residual_of_itself",
               [](SmallGraph& g, ValueId x) {
                 const auto [sum, y] = g.add_norm(x, g.activate(x));
                 return g.add(sum, y);
               }},
        Hazard{"fused_residual_twice_the_same", [](SmallGraph& g, ValueId x) { return g.add_norm(x, x).second; }}),
    [](const auto& c) { return c.param.name; });

TEST(Autodiff, LaterMicroBatchesAddToTheGradients) {
  const Graph graph = small_graph([](SmallGraph& g, ValueId x) { return g.add(x, g.linear(g.norm(x))); });
  Runner once(graph), thrice(graph);
  once.backward(Variant::Only);
  for (const Variant v : {Variant::First, Variant::Middle, Variant::Last}) thrice.backward(v);
  const auto one = once.gradients(), three = thrice.gradients();
  for (std::size_t p = 0; p < one.size(); ++p) {
    for (std::size_t i = 0; i < one[p].size(); ++i) EXPECT_NEAR(3 * one[p][i], three[p][i], 1e-14);
  }
  thrice.backward(Variant::Only);  // overwrites
  EXPECT_EQ(thrice.gradients(), one);
}

// Gradients of parameters are f32; of everything else they have the dtype of what they are the gradient of.
TEST(Autodiff, HalfPrecisionSumsGradientsOfParametersInSingle) {
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    for (const DType dtype : {DType::bf16, DType::f16}) {
      ProgramOptions o = tiny_options(family);
      o.dtype = dtype;
      const Graph graph = tiny_training_graph(o);
      EXPECT_EQ(verify(graph).value_or(""), "");
      std::vector<bool> wide(graph.values.size(), false);
      for (const Parameter& p : graph.parameters) {
        EXPECT_EQ(graph[p.value].spec.dtype, dtype);
        EXPECT_EQ(graph[p.gradient].spec, (TensorSpec{graph[p.value].spec.shape, DType::f32}));
        wide[static_cast<std::size_t>(p.gradient)] = true;
      }
      for (const Node& node : graph.nodes) {
        for (const ValueId gradient : node.grad) {
          if (gradient == kNoValue || wide[static_cast<std::size_t>(gradient)]) continue;
          EXPECT_EQ(graph[gradient].spec.dtype, dtype) << graph[gradient].name;
        }
      }
    }
  }
}

TEST(Autodiff, AGraphWithoutALossIsRefused) {
  SmallGraph g;
  g.activate(g.embed());
  EXPECT_THROW(add_backward(g.graph), Error);
}

}  // namespace
}  // namespace plimsoll
