// Poison on a pipeline is a test that can fail: where the memory of a value, or a slot, is given away before the
// micro-batch in it has read it for the last time, the step is not finite.

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "tests/support/equivalence.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr std::int64_t kRows = 6;

ProgramOptions options_of(const Layout& layout, int rank) {
  ProgramOptions o = equivalence_options(ModelFamily::Llama, DType::f32, 1);
  o.model.layers = 4;
  o.mesh = layout.mesh;
  o.rank = rank;
  o.schedule = layout.schedule;
  o.chunks = layout.chunks;
  o.micro_batches = kRows;
  return o;
}

using Mutation = std::function<void(Programs&)>;

// A poisoned step where the programs of `victim` are mutated.
struct Outcome {
  double loss = 0, norm = 0;
  bool applied = false;
  bool finite() const { return applied && std::isfinite(loss) && std::isfinite(norm); }
};
Outcome step_of(const Layout& layout, int victim, const Mutation& mutate) {
  Outcome outcome;
  on_mesh(layout.mesh, [&](int rank, const Groups& groups) {
    const ProgramOptions o = options_of(layout, rank);
    EngineOptions options;
    options.poison = true;
    for (const auto& [axis, group] : groups) options.groups[axis] = &group;
    Programs programs = build_programs(o);
    if (rank == victim) mutate(programs);
    Engine engine(std::move(programs), options);
    engine.initialise(1);
    const StepResult step = tiny_step(engine, o, 0, 0, kRows, kRows);
    if (rank == 0) outcome = {step.loss(), step.grad_norm, step.applied};
  });
  return outcome;
}

// All places of the slots of a value are one: the micro-batch that is done first leaves nothing to the others.
void share_slots(Programs& programs, ValueId value) {
  const Graph& graph = programs.graph("train");
  ProgramLayout& layout = programs.plan.programs.front();
  for (std::size_t v = 0; v < graph.values.size(); ++v) {
    if (graph.root(static_cast<ValueId>(v)) == value) layout.value_stride[v] = 0;
  }
}

// Of floating values that this rank makes, keeps in slots, and tells no one else of.
std::vector<ValueId> kept_in_slots(const Programs& programs) {
  const Graph& graph = programs.graph("train");
  const ProgramLayout& layout = programs.plan.program("train");
  std::set<ValueId> outside;
  for (const OutsideUse& use : outside_uses(graph)) outside.insert(use.value);
  for (const auto& [name, value] : graph.named) outside.insert(graph.root(value));
  std::vector<ValueId> kept;
  for (std::size_t v = 0; v < graph.values.size(); ++v) {
    const auto value = static_cast<ValueId>(v);
    const bool root = graph.values[v].base == kNoValue && !graph.values[v].persistent;
    if (root && layout.value_stride[v] > 0 && graph.values[v].spec.dtype == DType::f32 && !outside.contains(value))
      kept.push_back(value);
  }
  return kept;
}

// Of those, the ones that forward makes, or backward's first half for its second.
std::vector<ValueId> made_in(Graph::Section section, const Programs& programs) {
  const Graph& graph = programs.graph("train");
  std::map<ValueId, Graph::Section> made;
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    for_each_access(graph, graph.nodes[n], [&](const MemoryAccess& a) {
      if (a.writes) made.try_emplace(graph.root(a.value), graph.section(n));
    });
  }
  std::vector<ValueId> kept = kept_in_slots(programs);
  std::erase_if(kept, [&](ValueId value) { return made.at(value) != section; });
  return kept;
}

// On stages where the lives of one value in several micro-batches overlap: gpipe has all of them at once, 1f1b the
// first stage; what a weight gradient reads waits on the last stage while the next micro-batch makes its own.
TEST(PipelinePoison, FindsAValueWhosePlaceEndsTooSoon) {
  using enum ScheduleKind;
  struct Case {
    ScheduleKind kind;
    int rank;
    Graph::Section section;
  };
  for (const auto& [kind, rank, section] :
       {Case{GPipe, 0, Graph::Section::Forward}, Case{GPipe, 1, Graph::Section::Forward},
        Case{OneFOneB, 0, Graph::Section::Forward}, Case{ZbH1, 0, Graph::Section::Forward},
        Case{ZbH1, 1, Graph::Section::Backward}}) {
    const Layout layout{{.pipeline = 2}, 0, false, kind};
    ASSERT_TRUE(step_of(layout, rank, [](Programs&) {}).finite());
    const Programs programs = build_programs(options_of(layout, rank));
    const std::vector<ValueId> kept = made_in(section, programs);
    ASSERT_GT(kept.size(), 5U) << to_text(kind) << ", rank " << rank;
    for (const ValueId value : kept) {
      SCOPED_TRACE(fmt::format("{}, rank {}: {}", to_text(kind), rank, programs.graph("train")[value].name));
      EXPECT_FALSE(step_of(layout, rank, [&](Programs& p) { share_slots(p, value); }).finite());
    }
  }
}

// The same of whole slots: all micro-batches in flight take the first one.
TEST(PipelinePoison, FindsASlotThatIsGivenAwayTooSoon) {
  for (const Layout& layout : every_schedule({{.pipeline = 2}}, 4)) {
    for (int rank = 0; rank < 2; ++rank) {
      SCOPED_TRACE(fmt::format("{}, rank {}", name_of(layout), rank));
      const Programs programs = build_programs(options_of(layout, rank));
      const std::vector<ValueId> kept = kept_in_slots(programs);
      const std::vector<int>& slots = programs.schedule->slots[static_cast<std::size_t>(rank)];
      EXPECT_EQ(kept.empty(), *std::max_element(slots.begin(), slots.end()) == 1);
      const auto mutate = [&](Programs& p) {
        for (const ValueId value : kept) share_slots(p, value);
      };
      EXPECT_EQ(step_of(layout, rank, mutate).finite(), kept.empty());
    }
  }
}

}  // namespace
}  // namespace plimsoll
