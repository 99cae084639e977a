// Collectives as ops of a step program: a graph split over ranks gives the loss and the gradients of the whole one.

#include <gtest/gtest.h>

#include <cmath>

#include "comm/collective_kernels.hpp"
#include "kernels/cpu/register.hpp"
#include "runtime/core/rng.hpp"
#include "runtime/device/arena.hpp"
#include "runtime/exec/executor.hpp"
#include "runtime/graph/autodiff.hpp"
#include "runtime/plan/memory.hpp"
#include "tests/support/local_ranks.hpp"

namespace plimsoll {
namespace {

using test::on_ranks;

constexpr std::int64_t kIds = 12, kWidth = 6, kInner = 24, kBatch = 2, kTokens = 12;

// How the two linears between embedding and loss are split.
enum class Split {
  Whole,     // not at all
  Tensor,    // by columns and rows, between copy_to and reduce_from
  Sequence,  // as Tensor, and the tokens outside: all_gather and reduce_scatter along dim 1
  Residual,  // as Tensor, with the input used again outside of the region
};

// Rows [first, first + rows) and columns [column, column + columns) of the whole parameter.
struct Part {
  std::string name;
  Shape whole;
  std::int64_t first = 0, rows = 0, column = 0, columns = 0;
};

class Model {
 public:
  Model(Split split, int ranks, int rank) : split_(split), ranks_(ranks) {
    const std::int64_t inner = kInner / ranks, tokens = split == Split::Sequence ? kTokens / ranks : kTokens;
    const ValueId ids = input("tokens", {kBatch, tokens}), targets = input("targets", {kBatch, tokens});
    const ValueId embedding = parameter({"embedding", {kIds, kWidth}, 0, kIds, 0, kWidth});
    const ValueId x = add_node<Embedding>(graph, {}, {{Embedding::kTokens, ids}, {Embedding::kWeight, embedding}},
                                          "embedding", -1)[Embedding::kY];
    const ValueId up = parameter({"up", {kInner, kWidth}, rank * inner, inner, 0, kWidth});
    const ValueId down = parameter({"down", {kWidth, kInner}, 0, kWidth, rank * inner, inner});
    ValueId y = linear(enter(x), up, Activation::GeluTanh);
    y = leave(linear(y, down, Activation::None));
    if (split == Split::Residual || split == Split::Whole) {
      y = add_node<Add>(graph, {}, {{Add::kA, x}, {Add::kB, y}}, "add", -1)[Add::kY];
    }
    const ValueId head = parameter({"head", {kIds, kWidth}, 0, kIds, 0, kWidth});
    const ValueId loss = add_node<CrossEntropy>(
        graph, {}, {{CrossEntropy::kX, y}, {CrossEntropy::kWeight, head}, {CrossEntropy::kTargets, targets}}, "loss",
        -1)[CrossEntropy::kLoss];
    graph[loss].persistent = true;
    graph[loss].memory = MemoryClass::Staging;
    graph.named["loss"] = loss;
    add_backward(graph);
    share_forward_memory(graph);
    classify_memory(graph);
  }

  Graph graph;
  std::vector<Part> parts;

 private:
  ValueId input(const std::string& name, Shape shape) {
    return graph.named[name] = graph.add_value({name, {shape, DType::i32}, true, MemoryClass::Staging});
  }
  ValueId parameter(Part part) {
    Parameter p;
    const Shape shape{part.rows, part.columns};
    p.value = graph.add_value({part.name, {shape, DType::f64}, true, MemoryClass::Parameters});
    p.parts = {{part.name, shape, 0}};
    graph.parameters.push_back(p);
    parts.push_back(std::move(part));
    return p.value;
  }
  ValueId linear(ValueId x, ValueId weight, Activation activation) {
    return add_node<Linear>(graph, {false, activation}, {{Linear::kX, x}, {Linear::kWeight, weight}},
                            graph[weight].name, -1)[Linear::kY];
  }
  ValueId enter(ValueId x) {
    if (split_ == Split::Whole) return x;
    if (split_ == Split::Sequence) {
      return add_node<AllGather>(graph, {"tensor", ranks_, 1}, {{AllGather::kX, x}}, "enter", -1)[AllGather::kY];
    }
    return add_node<CopyTo>(graph, {"tensor", ranks_}, {{CopyTo::kX, x}}, "enter", -1)[CopyTo::kY];
  }
  ValueId leave(ValueId x) {
    if (split_ == Split::Whole) return x;
    if (split_ == Split::Sequence) {
      return add_node<ReduceScatter>(graph, {"tensor", ranks_, 1}, {{ReduceScatter::kX, x}}, "leave",
                                     -1)[ReduceScatter::kY];
    }
    return add_node<ReduceFrom>(graph, {"tensor", ranks_}, {{ReduceFrom::kX, x}}, "leave", -1)[ReduceFrom::kY];
  }

  Split split_;
  int ranks_;
};

// One rank's run of the model: memory that is poisoned before and after its life, streams that really run side by side.
struct Outcome {
  double loss = 0;
  std::vector<std::vector<double>> gradients;  // of the rank's parts
};
Outcome run_model(const Model& model, Split split, const Group& group, int steps) {
  const Graph& graph = model.graph;
  const auto bad = verify(graph);
  require(!bad, ErrorKind::Internal, "{}", bad.value_or(""));
  const Program program{"train", &graph};
  const MemoryPlan plan = plan_memory({&program, 1}, 1);
  const auto overlap = check_memory({&program, 1}, plan);
  require(!overlap, ErrorKind::Internal, "{}", overlap.value_or(""));
  const auto device = make_cpu_device(1);
  Arena arena(*device, plan.total_bytes);
  arena.fill_canary();
  KernelTable kernels = cpu_kernels();
  add_collective_kernels(kernels);
  const auto compute = device->make_stream(StreamKind::Compute);
  const auto tensor = device->make_stream(StreamKind::Tensor);
  ExecutorContext context{device.get(), compute.get(), nullptr, arena.base(), &kernels, {{"tensor", &group}}, {}};
  context.tensor = tensor.get();
  Executor executor(graph, plan, plan.program("train"), context, {1, true});
  executor.inputs() = StepInputs{};
  executor.inputs().loss_seed = 1.0 / (kBatch * kTokens);
  const std::int64_t tokens = executor.view("tokens").spec.shape[1];
  const std::int64_t first = split == Split::Sequence ? tokens * group.rank() : 0;
  for (std::int64_t b = 0; b < kBatch; ++b) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      const auto id = static_cast<std::int32_t>((b * 7 + (first + t) * 5) % kIds);
      executor.view("tokens").as<std::int32_t>()[b * tokens + t] = id;
      executor.view("targets").as<std::int32_t>()[b * tokens + t] =
          static_cast<std::int32_t>((id * id + 3 * (first + t)) % 5);
    }
  }
  for (std::size_t p = 0; p < model.parts.size(); ++p) {
    const Part& part = model.parts[p];
    const RandomStream random(4, part.name);
    auto* to = executor.view(graph.parameters[p].value).as<double>();
    for (std::int64_t i = 0; i < part.rows * part.columns; ++i) {
      const std::int64_t row = part.first + i / part.columns, column = part.column + i % part.columns;
      to[i] = 0.5 * random.normal(static_cast<std::uint64_t>(row * part.whole[1] + column));
    }
  }
  for (int step = 0; step < steps; ++step) {
    executor.run(Graph::Section::Forward);
    executor.run(Graph::Section::Backward, step == 0 ? Variant::First : Variant::Last);
  }
  executor.synchronize();
  Outcome outcome{executor.view("loss").as<double>()[0], {}};
  for (const Parameter& p : graph.parameters) {
    const View g = executor.view(p.gradient);
    outcome.gradients.emplace_back(g.as<double>(), g.as<double>() + g.spec.elements());
  }
  const std::int64_t touched = arena.high_water();
  require(touched == plan.total_bytes, ErrorKind::Internal, "high water {} of {}", touched, plan.total_bytes);
  return outcome;
}

class SplitGraph : public testing::TestWithParam<std::tuple<Split, int>> {};

TEST_P(SplitGraph, GivesLossAndGradientsOfTheWhole) {
  constexpr int kSteps = 3;
  const auto [split, ranks] = GetParam();
  const Group self("tensor", make_self_transport());
  Model whole(split == Split::Residual ? Split::Whole : Split::Tensor, 1, 0);
  const Outcome expected = run_model(whole, Split::Whole, self, kSteps);
  std::vector<Outcome> found(static_cast<std::size_t>(ranks));
  std::vector<std::vector<Part>> parts(found.size());
  const auto faults = on_ranks(
      ranks,
      [&, split = split, ranks = ranks](const Group& group) {
        const auto rank = static_cast<std::size_t>(group.rank());
        const Model model(split, ranks, group.rank());
        parts[rank] = model.parts;
        found[rank] = run_model(model, split, group, kSteps);
        return std::string();
      },
      "tensor");
  for (const std::string& fault : faults) ASSERT_EQ(fault, "");
  // With the tokens split, loss and the gradients of what lies outside of the region are parts that data-parallel sums
  // add up.
  const bool partial = split == Split::Sequence;
  double loss = 0;
  for (const Outcome& o : found) loss += o.loss / (partial ? 1 : ranks);
  EXPECT_NEAR(loss, expected.loss, 1e-12 * expected.loss);
  for (std::size_t p = 0; p < whole.parts.size(); ++p) {
    std::vector<double> sum(expected.gradients[p].size(), 0.0);
    for (std::size_t r = 0; r < found.size(); ++r) {
      const Part& part = parts[r][p];
      const bool everywhere = part.rows * part.columns == part.whole.elements();
      for (std::int64_t i = 0; i < part.rows * part.columns; ++i) {
        const std::int64_t row = part.first + i / part.columns, column = part.column + i % part.columns;
        sum[static_cast<std::size_t>(row * part.whole[1] + column)] +=
            found[r].gradients[p][static_cast<std::size_t>(i)] / (everywhere && !partial ? ranks : 1);
      }
    }
    for (std::size_t i = 0; i < sum.size(); ++i) {
      ASSERT_NEAR(sum[i], expected.gradients[p][i], 1e-13) << whole.parts[p].name << " at " << i;
    }
  }
}

std::string split_name(const testing::TestParamInfo<std::tuple<Split, int>>& c) {
  constexpr std::array<const char*, 4> names{"whole", "tensor", "sequence", "residual"};
  return fmt::format("{}_{}", names[static_cast<std::size_t>(std::get<0>(c.param))], std::get<1>(c.param));
}

INSTANTIATE_TEST_SUITE_P(Ranks, SplitGraph,
                         testing::Combine(testing::Values(Split::Tensor, Split::Sequence, Split::Residual),
                                          testing::Values(1, 2, 3, 4)),
                         split_name);

}  // namespace
}  // namespace plimsoll
