// Offload: where the copies stand, what leaves the device, and that no bit of a run changes.

#include "runtime/graph/offload.hpp"

#include <gtest/gtest.h>

#include <set>

#include "runtime/graph/autodiff.hpp"
#include "runtime/plan/in_flight.hpp"
#include "tests/launch/tiny_run.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr int kLayers = 4;
constexpr std::array kFamilies{ModelFamily::Gpt2, ModelFamily::Llama};

ProgramOptions options_of(ModelFamily family, double dropout = 0) {
  ProgramOptions o = tiny_options(family);
  o.model.layers = kLayers;
  o.model.dropout = dropout;
  return o;
}

std::vector<LayerRecompute> all(RecomputeMode mode) { return std::vector<LayerRecompute>(kLayers, {mode, {}}); }

bool is_copy(const Node& node) { return node.stream == StreamKind::Copy; }

// The bytes of the layers that forward leaves for backward.
std::int64_t saved_bytes(const Graph& graph, int layers) {
  std::int64_t bytes = 0;
  for (int layer = 0; layer < layers; ++layer) {
    for (const RecomputableValue& v : recomputable_values(graph, layer)) bytes += v.backward_reads ? v.bytes : 0;
  }
  return bytes;
}

// What leaves comes back, once for each half of backward, and backward reads nothing else.
TEST(Offload, CopiesStandBehindTheMakerAndShortlyBeforeTheReader) {
  for (const ModelFamily family : kFamilies) {
    Graph graph = tiny_training_graph(options_of(family));
    const std::vector<ValueId> sent = offloaded_values(graph, all(RecomputeMode::Offload));
    const std::int64_t saved = saved_bytes(graph, kLayers);
    offload(graph, sent);
    ASSERT_EQ(verify(graph), std::nullopt);
    std::map<ValueId, ValueId> host_of, back_of;
    std::int64_t bytes = 0;
    for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
      const Node& node = graph.nodes[n];
      if (!is_copy(node)) continue;
      const ValueId x = node.value[HostCopy::kX], y = node.value[HostCopy::kY];
      if (node.op == op_id<ToHost>) {
        EXPECT_TRUE(host_of.emplace(x, y).second);
        EXPECT_EQ(graph.section(n), Graph::Section::Forward);
        EXPECT_EQ(graph[y].memory, MemoryClass::Offloaded);
        bytes += graph[y].spec.bytes();
        std::size_t maker = n - 1;
        while (is_copy(graph.nodes[maker])) --maker;
        const auto& made = graph.nodes[maker].value;
        EXPECT_NE(std::find(made.begin(), made.end(), x), made.end()) << node.label;
        continue;
      }
      EXPECT_TRUE(back_of.emplace(x, y).second);
      std::size_t reader = n;
      int between = 0;
      for (bool found = false; !found; ++reader) {
        const auto& read = graph.nodes[reader + 1].value;
        found = std::find(read.begin(), read.end(), y) != read.end();
        between += !found && graph.nodes[reader + 1].stream == StreamKind::Compute ? 1 : 0;
      }
      EXPECT_TRUE(between == kFetchAhead || n == graph.backward_begin || is_copy(graph.nodes[n - 1])) << node.label;
      EXPECT_LE(between, kFetchAhead) << node.label;
    }
    EXPECT_EQ(bytes, saved);
    EXPECT_EQ(host_of.size(), back_of.size());
    for (std::size_t n = graph.backward_begin; n < graph.update_begin; ++n) {
      for (const ValueId v : graph.nodes[n].value) EXPECT_FALSE(host_of.contains(v)) << graph.nodes[n].label;
    }
  }
}

TEST(Offload, JustInTimeWithoutADistance) {
  Graph graph = tiny_training_graph(options_of(ModelFamily::Llama));
  offload(graph, offloaded_values(graph, all(RecomputeMode::Offload)), 0);
  for (std::size_t n = graph.backward_begin; n < graph.update_begin; ++n) {
    if (!is_copy(graph.nodes[n])) continue;
    std::size_t reader = n + 1;
    while (is_copy(graph.nodes[reader])) ++reader;
    const auto& read = graph.nodes[reader].value;
    EXPECT_NE(std::find(read.begin(), read.end(), graph.nodes[n].value[HostCopy::kY]), read.end());
  }
}

// A copy has until the next one to be done: nobody is given the bytes that it reads before.
TEST(Offload, BytesOfACopyUnderWayStay) {
  for (const ModelFamily family : kFamilies) {
    ProgramOptions o = options_of(family);
    o.recompute = all(RecomputeMode::Offload);
    const Programs programs = build_programs(o);
    const Graph& graph = programs.graph("train");
    const std::vector<std::int64_t>& at = programs.plan.program("train").value_offset;
    const std::vector<std::size_t> until = in_flight_until(graph);
    int beside = 0;
    for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
      if (graph.nodes[n].op != op_id<ToHost>) continue;
      const ValueId x = graph.nodes[n].value[HostCopy::kX];
      const std::int64_t begin = at[static_cast<std::size_t>(x)], end = begin + graph[x].spec.bytes();
      for (std::size_t m = n + 1; m <= until[n]; ++m) {
        if (graph.nodes[m].stream != StreamKind::Compute) continue;
        ++beside;
        for_each_access(graph, graph.nodes[m], [&](const MemoryAccess& a) {
          if (!a.writes || graph[a.value].host) return;
          const std::int64_t first = at[static_cast<std::size_t>(a.value)];
          EXPECT_TRUE(first >= end || first + graph[a.value].spec.bytes() <= begin)
              << graph.nodes[m].label << " writes over '" << graph[x].name << "'";
        });
      }
    }
    EXPECT_GE(beside, kLayers * 4) << "nodes that may run beside a copy";
  }
}

// The class of activations loses exactly what left, which is exactly what the host arena has.
TEST(Offload, TheDeviceHoldsLessByWhatTheHostHolds) {
  for (const ModelFamily family : kFamilies) {
    ProgramOptions o = options_of(family);
    o.sequence = 64;
    const std::int64_t saved = saved_bytes(tiny_training_graph(o), kLayers - 1);
    const auto memory_of = [&](const Programs& p, MemoryClass c) {
      return p.plan.class_bytes[static_cast<std::size_t>(c)];
    };
    const auto kept = [](const Programs& p) {
      std::int64_t bytes = 0;
      const Graph& graph = p.graph("train");
      for (const Value& v : graph.values)
        bytes += v.memory == MemoryClass::Activations && !v.persistent && v.base == kNoValue ? v.spec.bytes() : 0;
      return bytes;
    };
    const Programs none = build_programs(o);
    o.recompute = all(RecomputeMode::Offload);
    o.recompute.back().mode = RecomputeMode::None;  // backward begins with the last layer
    const Programs some = build_programs(o);
    EXPECT_EQ(check_memory(some.list(), some.plan), std::nullopt);
    EXPECT_EQ(memory_of(none, MemoryClass::Offloaded), 0);
    EXPECT_EQ(memory_of(some, MemoryClass::Offloaded), saved);
    EXPECT_EQ(kept(none) - kept(some), saved);
    // Where forward ends nothing is on its way: the arena is smaller by what left, but for its alignment …
    const auto live_at_the_turn = [](const Programs& p) {
      const ProgramLayout& train = p.plan.program("train");
      std::int64_t bytes = 0;
      for (const std::int64_t c : train.live_class_bytes[train.backward_begin]) bytes += c;
      return bytes;
    };
    EXPECT_EQ(live_at_the_turn(none) - live_at_the_turn(some), saved);
    // … and so is the peak, unless it lies where a layer's values are back: of three, one at most, and a half.
    EXPECT_LE(some.plan.total_bytes, none.plan.total_bytes - saved / 2);
    EXPECT_EQ(some.plan.host_bytes, memory_of(some, MemoryClass::Offloaded) + some.plan.host_padding_bytes);
  }
}

TEST(Offload, TheCheckerFindsAWrongPlaceInHostMemory) {
  ProgramOptions o = options_of(ModelFamily::Gpt2);
  o.recompute = all(RecomputeMode::Offload);
  Programs programs = build_programs(o);
  ASSERT_EQ(check_memory(programs.list(), programs.plan), std::nullopt);
  const Graph& graph = programs.graph("train");
  std::vector<std::int64_t>& at = programs.plan.programs.front().value_offset;
  std::vector<std::size_t> there;
  for (std::size_t v = 0; v < graph.values.size(); ++v) {
    if (graph.values[v].host && there.size() < 2) there.push_back(v);
  }
  at[there[1]] = at[there[0]];
  const auto fault = check_memory(programs.list(), programs.plan);
  ASSERT_TRUE(fault);
  EXPECT_NE(fault->find("in host memory"), std::string::npos) << *fault;
}

struct Outcome {
  std::vector<double> losses, gradients, parameters;
  bool operator==(const Outcome&) const = default;
};

Outcome run_of(const ProgramOptions& o, bool poison = false, Profile* profile = nullptr) {
  Programs programs = build_programs(o);
  EXPECT_EQ(check_memory(programs.list(), programs.plan), std::nullopt);
  Engine engine(std::move(programs), {1, poison, {}, profile});
  engine.initialise(1);
  Outcome run;
  for (std::int64_t step = 0; step < 3; ++step) {
    run.losses.push_back(tiny_step(engine, o, step, 0, 2 * o.micro_batch, 2 * o.micro_batch).loss());
    const std::vector<double> g = region_values(engine, "gradients");
    run.gradients.insert(run.gradients.end(), g.begin(), g.end());
  }
  run.parameters = region_values(engine, "parameters");
  EXPECT_EQ(engine.arena().high_water(), engine.programs().plan.total_bytes);
  if (engine.host_arena() != nullptr) {
    EXPECT_EQ(engine.host_arena()->high_water(), engine.programs().plan.host_bytes);
  }
  return run;
}

TEST(Offload, NoModeChangesABit) {
  using enum RecomputeMode;
  for (const ModelFamily family : kFamilies) {
    ProgramOptions o = options_of(family, family == ModelFamily::Gpt2 ? 0.2 : 0);
    o.model.qk_norm = family == ModelFamily::Llama;
    o.sequence = 40;
    const Outcome none = run_of(o);
    ASSERT_TRUE(std::isfinite(none.losses.back()));
    for (const auto& layers :
         {all(Offload), std::vector<LayerRecompute>{{Offload, {}}, {Full, {}}, {None, {}}, {Selective, {}}},
          std::vector<LayerRecompute>{{Full, {}}, {Offload, {}}, {Offload, {}}, {Full, {}}}}) {
      o.recompute = layers;
      EXPECT_TRUE(run_of(o) == none);
      EXPECT_TRUE(run_of(o, true) == none) << "poisoned";
    }
  }
}

// Any fate of any value: kept, made again, sent away; what is made again may be made from what comes back.
TEST(Offload, NoChoiceOfValuesChangesABit) {
  for (const ModelFamily family : kFamilies) {
    ProgramOptions o = options_of(family, family == ModelFamily::Gpt2 ? 0.2 : 0);
    const Outcome none = run_of(o);
    const Graph graph = tiny_training_graph(o);
    int made_from_back = 0;
    for (std::uint64_t choice = 0; choice < 12; ++choice) {
      SCOPED_TRACE(choice);
      const RandomStream random(choice, "fates");
      std::uint64_t at = 0;
      o.recompute = all(RecomputeMode::Auto);
      for (int layer = 0; layer < kLayers; ++layer) {
        LayerRecompute& fate = o.recompute[static_cast<std::size_t>(layer)];
        for (const RecomputableValue& v : recomputable_values(graph, layer)) {
          const double u = random.uniform(at++);
          if (u < 0.3) fate.keep.push_back(v.name);
          if (u >= 0.3 && u < 0.3 + 0.1 * static_cast<double>(choice % 6)) fate.offload.push_back(v.name);
        }
      }
      const Programs programs = build_programs(o);
      for (const Node& node : programs.graph("train").nodes) {
        for (const ValueId v : node.value)
          made_from_back += node.again && v != kNoValue && programs.graph("train")[v].name.ends_with(".back") ? 1 : 0;
      }
      EXPECT_TRUE(run_of(o, choice % 2 == 1) == none);
    }
    EXPECT_GT(made_from_back, 0);
  }
}

TEST(Offload, CopiesHaveAStreamOfTheirOwnInTheTrace) {
  ProgramOptions o = options_of(ModelFamily::Gpt2);
  o.recompute = all(RecomputeMode::Offload);
  Profile profile;
  run_of(o, false, &profile);
  std::map<std::string, std::int64_t> bytes;
  for (const Profile::Span& span : profile.spans()) {
    const ProfileRow& row = profile.row(span.row);
    const bool copies = row.op == ToHost::name || row.op == FromHost::name;
    EXPECT_EQ(row.track == "copy", copies) << row.label;
    if (copies) bytes[row.op] += row.bytes;
  }
  const std::int64_t saved = saved_bytes(tiny_training_graph(o), kLayers);
  EXPECT_EQ(bytes[std::string(ToHost::name)], 3 * 2 * saved) << "of three steps of two micro-batches";
  EXPECT_EQ(bytes[std::string(FromHost::name)], 3 * 2 * saved);
}

TEST(Offload, RefusesWhatItCannotSend) {
  Graph graph = tiny_training_graph(options_of(ModelFamily::Gpt2));
  EXPECT_THROW(offload(graph, std::array{graph.find("tokens")}), Error);
  EXPECT_THROW(offload(graph, std::array{graph.parameters.front().value}), Error);
  ProgramOptions o = options_of(ModelFamily::Gpt2);
  o.recompute = all(RecomputeMode::Auto);
  o.recompute[1].offload = {"no.such"};
  try {
    build_programs(o);
    FAIL() << "there is no such value";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("layer 1 makes no 'no.such'"), std::string::npos) << error.what();
  }
}

TEST(Offload, NoKernelButACopyTouchesHostMemory) {
  Graph graph = tiny_training_graph(options_of(ModelFamily::Gpt2));
  offload(graph, offloaded_values(graph, all(RecomputeMode::Offload)));
  ASSERT_EQ(verify(graph), std::nullopt);
  const auto copy = std::find_if(graph.nodes.begin(), graph.nodes.end(), is_copy);
  graph[copy->value[HostCopy::kX]].host = true;
  const auto fault = verify(graph);
  ASSERT_TRUE(fault);
  EXPECT_NE(fault->find("in host memory"), std::string::npos) << *fault;
}

}  // namespace
}  // namespace plimsoll
