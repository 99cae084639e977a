#include "runtime/graph/graph.hpp"

#include <gtest/gtest.h>

#include "launch/programs.hpp"
#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

Value persistent(const std::string& name, Shape shape, DType dtype = DType::f32) {
  Value v;
  v.name = name;
  v.spec = {shape, dtype};
  v.persistent = true;
  return v;
}

// p → activate → activate → add
struct Chain {
  Graph graph;
  ValueId p, a, b, c;
  Chain() {
    p = graph.add_value(persistent("p", {2, 3}));
    a = add_node<Activate>(graph, {}, {{Activate::kX, p}}, "first", 0)[Activate::kY];
    b = add_node<Activate>(graph, {}, {{Activate::kX, a}}, "second", 0)[Activate::kY];
    c = add_node<Add>(graph, {}, {{Add::kA, a}, {Add::kB, b}}, "third", 1)[Add::kY];
  }
};

void expect_rejected(const Graph& graph, const std::vector<std::string>& words) {
  const auto bad = verify(graph);
  ASSERT_TRUE(bad.has_value());
  for (const std::string& word : words) EXPECT_NE(bad->find(word), std::string::npos) << word << " in " << *bad;
}

TEST(Verify, AcceptsAGraphInOrder) { EXPECT_EQ(verify(Chain().graph), std::nullopt); }

TEST(Verify, RejectsAReadBeforeTheWrite) {
  Chain chain;
  std::swap(chain.graph.nodes[0], chain.graph.nodes[1]);
  expect_rejected(chain.graph, {"second", "first.y", "before it is written"});
}

TEST(Verify, RejectsAValueOfAnotherShape) {
  Chain chain;
  chain.graph[chain.b].spec.shape = {2, 4};
  expect_rejected(chain.graph, {"second", "f32[2, 4]"});
}

TEST(Verify, RejectsTheSameBytesInAnotherShapeOrDtype) {
  Chain chain;
  chain.graph[chain.b].spec = {{3}, DType::f64};
  expect_rejected(chain.graph, {"second", "f64[3]"});
}

TEST(Verify, RejectsAnEmptyValueAndAPartOutsideOfItsBase) {
  Chain chain;
  chain.graph.add_value(persistent("nothing", {0, 3}));
  expect_rejected(chain.graph, {"nothing", "empty"});
  Chain other;
  Value part = persistent("part", {2});
  part.base = other.p;
  part.byte_offset = 20;
  other.graph.add_value(part);
  expect_rejected(other.graph, {"part", "inside 'p'"});
}

TEST(Verify, RejectsAValueThatIsNotThere) {
  Chain chain;
  chain.graph.nodes[2].value[Add::kB] = 77;
  expect_rejected(chain.graph, {"third"});
}

TEST(Graph, NamesRootsAndOffsets) {
  Chain chain;
  chain.graph.named["result"] = chain.c;
  EXPECT_EQ(chain.graph.find("result"), chain.c);
  EXPECT_THROW(chain.graph.find("nothing"), Error);
  Value part = persistent("part", {4});
  part.base = chain.p;
  part.byte_offset = 8;
  const ValueId outer = chain.graph.add_value(part);
  part.base = outer;
  part.byte_offset = 4;
  part.spec.shape = {2};
  const ValueId inner = chain.graph.add_value(part);
  EXPECT_EQ(chain.graph.root(inner), chain.p);
  EXPECT_EQ(chain.graph.offset_in_root(inner), 12);
}

TEST(Graph, AMissingInputIsNamed) {
  Graph graph;
  const ValueId p = graph.add_value(persistent("p", {2, 3}));
  try {
    add_node<Add>(graph, {}, {{Add::kA, p}}, "broken", 0);
    FAIL() << "an add with one input was built";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Internal);
  }
}

TEST(ShareForwardMemory, WritesOverInputsOnlyWhenNothingReadsThemLater) {
  Chain chain;
  share_forward_memory(chain.graph);
  EXPECT_EQ(chain.graph[chain.a].base, kNoValue);  // made from a persistent value
  EXPECT_EQ(chain.graph[chain.b].base, kNoValue);  // the add reads its input again
  EXPECT_EQ(chain.graph.root(chain.c), chain.a);   // a is read for the last time
  EXPECT_EQ(verify(chain.graph), std::nullopt);
}

class ModelGraphs : public testing::TestWithParam<ModelFamily> {
 protected:
  static Programs programs() {
    ProgramOptions o;
    o.model = family_defaults(GetParam());
    o.model.layers = 2;
    o.model.hidden = 24;
    o.model.heads = 4;
    o.model.vocabulary = 11;
    o.model = resolve(o.model);
    o.sequence = 8;
    o.micro_batch = 2;
    o.mesh.data = 2;
    o.train = o.evaluate = o.logits = true;
    o.cache_positions = 16;
    return build_programs(o);
  }
};

TEST_P(ModelGraphs, DumpsMentionEveryNode) {
  const Programs all = programs();
  EXPECT_EQ(all.names, (std::vector<std::string>{"train", "evaluate", "logits", "prefill", "decode"}));
  for (const Program& program : all.list()) {
    const Graph& graph = *program.graph;
    const std::string text = dump_text(graph), dot = dump_graphviz(graph);
    EXPECT_EQ(dot.substr(0, 8), "digraph ");
    for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
      EXPECT_NE(text.find(graph.nodes[n].label), std::string::npos) << graph.nodes[n].label;
      EXPECT_NE(text.find(fmt::format("\n{:4} ", n)), std::string::npos) << n;
      EXPECT_NE(dot.find(fmt::format("  n{} [", n)), std::string::npos) << n;
    }
  }
}

TEST_P(ModelGraphs, GraphvizHasANodePerParameter) {
  const Programs all = programs();
  const std::string dot = dump_graphviz(all.graph("train"));
  for (const Parameter& p : all.graph("train").parameters) {
    const std::string label = fmt::format("[shape=ellipse, label=\"{}\"]", all.graph("train")[p.value].name);
    const std::size_t at = dot.find(label);
    ASSERT_NE(at, std::string::npos) << label;
    EXPECT_EQ(dot.find(label, at + 1), std::string::npos) << label;
    const std::size_t line = dot.rfind('\n', at) + 1;
    const std::string node = dot.substr(line, at - line);
    EXPECT_EQ(dot.find("\n" + node + "[", at), std::string::npos) << node << "has another label as well";
  }
}

TEST_P(ModelGraphs, SectionsComeInOrderAndPhasesMatchThem) {
  const Programs all = programs();
  const Graph& graph = all.graph("train");
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    const Node& node = graph.nodes[n];
    EXPECT_GE(graph.section(n), graph.section(n == 0 ? 0 : n - 1));
    EXPECT_EQ(graph.section(n) == Graph::Section::Forward, node.phase == Phase::Forward) << node.label;
    EXPECT_EQ(graph.section(n) == Graph::Section::Update, node.phase == Phase::Update) << node.label;
  }
  for (const Parameter& p : graph.parameters) EXPECT_NE(p.gradient, kNoValue) << graph[p.value].name;
}

TEST_P(ModelGraphs, BackwardTakesTwiceTheForwardProducts) {
  const Programs all = programs();
  const Graph& graph = all.graph("train");
  std::array<std::int64_t, 5> flops{};
  for (const Node& node : graph.nodes) {
    if (node.op == op_id<Linear>)
      flops[static_cast<std::size_t>(node.phase)] += op_info(node.op).flops(node.attrs, node.specs, node.phase);
  }
  const auto of = [&](Phase p) { return static_cast<double>(flops[static_cast<std::size_t>(p)]); };
  EXPECT_NEAR(of(Phase::InputGrad) / of(Phase::Forward), 1, 0.05);
  EXPECT_NEAR(of(Phase::WeightGrad) / of(Phase::Forward), 1, 0.05);
}

INSTANTIATE_TEST_SUITE_P(Families, ModelGraphs, testing::Values(ModelFamily::Gpt2, ModelFamily::Llama),
                         [](const auto& c) { return c.param == ModelFamily::Gpt2 ? "gpt2" : "llama"; });

}  // namespace
}  // namespace plimsoll
