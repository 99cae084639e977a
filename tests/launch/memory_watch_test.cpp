// Memory by class is measured from what kernels are handed, so a plan that says something else is found out.

#include "runtime/exec/memory_watch.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "launch/summary.hpp"
#include "tests/launch/tiny_run.hpp"

namespace plimsoll {
namespace {

using namespace test;

std::int64_t of(const ClassBytes& bytes, MemoryClass c) { return bytes[static_cast<std::size_t>(c)]; }

// What a step, and an evaluation where there is one, are seen to use.
ClassBytes seen_by(Programs programs, const ProgramOptions& train, std::int64_t evaluated_rows) {
  const bool evaluates = programs.has("evaluate");
  Engine engine(std::move(programs), {1, false, {}, nullptr});
  engine.initialise(1);
  tiny_step(engine, train, 0, 0, 2 * train.micro_batch, 2 * train.micro_batch);
  if (evaluates) {
    const TinyBatch batch = tiny_batch(train, 99, 0, evaluated_rows);
    double sum = 0, count = 0;
    engine.evaluate_micro_batch(batch.tokens, batch.targets, sum, count);
  }
  return engine.seen_class_bytes();
}

// A value that forward makes and backward reads, of the first layer.
ValueId an_activation(const Graph& graph) {
  for (ValueId v = 0; v < static_cast<ValueId>(graph.values.size()); ++v) {
    if (graph[v].memory == MemoryClass::Activations && graph[v].layer == 0 && graph[v].base == kNoValue) return v;
  }
  fail(ErrorKind::Internal, "no activation");
}

TEST(MemoryWatch, FindsAClassThatThePlanHasWrong) {
  const ProgramOptions o = tiny_options(ModelFamily::Gpt2);
  Programs programs = build_programs(o);
  const ClassBytes right = programs.plan.class_bytes;
  Value& value = (*programs.graphs.front())[an_activation(*programs.graphs.front())];
  value.memory = MemoryClass::Transients;
  programs.plan = plan_memory(programs.list(), 1);
  const ClassBytes wrong = programs.plan.class_bytes;
  const std::int64_t bytes = value.spec.bytes();
  EXPECT_EQ(of(wrong, MemoryClass::Activations), of(right, MemoryClass::Activations) - bytes);
  EXPECT_EQ(of(wrong, MemoryClass::Transients), of(right, MemoryClass::Transients) + bytes);
  EXPECT_EQ(seen_by(std::move(programs), o, 0), right);
}

// The plan is that of a step in which backward reads the second layer's value in the place of the first one's.
TEST(MemoryWatch, FindsATouchOutsideOfThePlannedLifetime) {
  const ProgramOptions o = tiny_options(ModelFamily::Gpt2);
  Programs programs = build_programs(o);
  const ClassBytes right = programs.plan.class_bytes;
  Graph other = *programs.graphs.front();
  const ValueId first = an_activation(other);
  const std::string second_name = "1" + other[first].name.substr(1);
  const auto second =
      std::find_if(other.values.begin(), other.values.end(), [&](const Value& v) { return v.name == second_name; });
  ASSERT_NE(second, other.values.end()) << second_name;
  for (std::size_t n = other.backward_begin; n < other.nodes.size(); ++n)
    std::replace(other.nodes[n].value.begin(), other.nodes[n].value.end(), first,
                 static_cast<ValueId>(second - other.values.begin()));
  programs.plan = plan_memory(std::vector<Program>{{"train", &other}}, 1);
  const std::int64_t missing =
      of(right, MemoryClass::Activations) - of(programs.plan.class_bytes, MemoryClass::Activations);
  EXPECT_GE(missing, other[first].spec.bytes());
  EXPECT_EQ(seen_by(std::move(programs), o, 0), right);
}

// Persistent values count where something touched them.
TEST(MemoryWatch, FindsAPersistentValueThatNothingTouches) {
  const ProgramOptions o = tiny_options(ModelFamily::Llama);
  Programs programs = build_programs(o);
  ClassBytes expected = programs.plan.class_bytes;
  EXPECT_EQ(seen_by(build_programs(o), o, 0), expected);
  Value idle;
  idle.name = "idle";
  idle.spec = {{100}, DType::f32};
  idle.persistent = true;
  idle.memory = MemoryClass::Optimizer;
  programs.graphs.front()->add_value(std::move(idle));
  programs.plan = plan_memory(programs.list(), 1);
  EXPECT_EQ(of(programs.plan.class_bytes, MemoryClass::Optimizer), of(expected, MemoryClass::Optimizer) + 400);
  EXPECT_EQ(seen_by(std::move(programs), o, 0), expected);
}

// What counts is the program that needs most, and the persistent values of both.
TEST(MemoryWatch, SeesAnEvaluationThatIsLargerThanTraining) {
  ProgramOptions o = tiny_options(ModelFamily::Gpt2), large = o;
  large.train = false;
  large.evaluate = true;
  large.micro_batch = 64;
  Programs programs = build_programs(o), evaluation = build_programs(large);
  programs.names.emplace_back("evaluate");
  programs.graphs.push_back(std::move(evaluation.graphs.front()));
  programs.plan = plan_memory(programs.list(), 1);
  ASSERT_GT(programs.plan.program("evaluate").step_bytes, programs.plan.program("train").step_bytes);
  EXPECT_EQ(of(programs.plan.class_bytes, MemoryClass::Activations), 0);
  const ClassBytes planned = programs.plan.class_bytes;
  EXPECT_EQ(seen_by(std::move(programs), o, large.micro_batch), planned);
}

RankSummary planned_rank(int number) {
  RankSummary r;
  r.rank = number;
  r.budget_bytes = 2000;
  r.planned_bytes = r.arena_high_water_bytes = 1000;
  r.outside_arena_bytes = 900;
  r.class_bytes = r.measured_class_bytes = {100, 200, 300, 250, 90};
  r.padding_bytes = 60;
  return r;
}

// How a run with these ranks ends.
void expect_end(const std::vector<RankSummary>& ranks, ErrorKind kind, std::string_view text) {
  try {
    check_memory_held(ranks);
    ADD_FAILURE() << "ends well";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind);
    EXPECT_NE(std::string_view(error.what()).find(text), std::string_view::npos) << error.what();
  }
}

TEST(MemoryReport, SaysWhatWasNotAsPlanned) {
  RunSummary summary;
  summary.step_seconds = summary.peak_gflops = 1;
  summary.ranks = {planned_rank(0), planned_rank(1), planned_rank(2)};
  EXPECT_TRUE(memory_faults(summary.ranks).empty());
  EXPECT_NO_THROW(check_memory_held(summary.ranks));
  EXPECT_NE(memory_report(summary).find("ranks 0, 1, 2 "), std::string::npos) << memory_report(summary);
  RankSummary& other = summary.ranks[1];
  other.measured_class_bytes[static_cast<std::size_t>(MemoryClass::Activations)] = 260;
  EXPECT_FALSE(other.as_planned());
  const std::vector<std::string> faults = memory_faults(summary.ranks);
  ASSERT_EQ(faults.size(), 1U);
  EXPECT_NE(faults.front().find("rank 1: memory was not used as planned"), std::string::npos) << faults.front();
  EXPECT_NE(faults.front().find("activations 260, planned 250"), std::string::npos) << faults.front();
  expect_end(summary.ranks, ErrorKind::Internal, "done and saved, but rank 1: memory was not used as planned");
  const std::string report = memory_report(summary);
  EXPECT_NE(report.find("ranks 0, 2 "), std::string::npos) << report;
  EXPECT_NE(report.find(fmt::format("  {:<24}{:>16}{:>16}{:>16}\n", "activations", 250, 260, 10)), std::string::npos)
      << report;
  EXPECT_NE(report.find(fmt::format("  {:<24}{:>16}{:>16}{:>16}\n", "padding", 60, 50, -10)), std::string::npos)
      << report;
  EXPECT_EQ(report.find("OVER BUDGET"), std::string::npos) << report;
  const TempFolder folder;
  write_summary(summary, folder.path().string());
  const auto rank = nlohmann::json::parse(read_text(folder / "summary.json"))["ranks"][1];
  EXPECT_EQ(rank["activations"], 250);
  EXPECT_EQ(rank["measured_class_bytes"]["activations"], 260);
  EXPECT_EQ(rank["measured_minus_planned_bytes"]["activations"], 10);
  EXPECT_EQ(rank["measured_minus_planned_bytes"]["parameters"], 0);
  EXPECT_EQ(rank["over_budget_bytes"], 0);
}

TEST(MemoryReport, SaysWhoWasOverBudget) {
  RunSummary summary;
  summary.step_seconds = summary.peak_gflops = 1;
  summary.ranks = {planned_rank(0), planned_rank(1)};
  summary.ranks[1].outside_arena_bytes = 1500;
  const std::vector<std::string> faults = memory_faults(summary.ranks);
  ASSERT_EQ(faults.size(), 1U);
  EXPECT_NE(faults.front().find("rank 1: over budget: the peak is 500 B above memory.budget"), std::string::npos)
      << faults.front();
  expect_end(summary.ranks, ErrorKind::OutOfMemory, "done and saved, but rank 1: over budget: the peak is 500 B above");
  expect_end(summary.ranks, ErrorKind::OutOfMemory, "1.46 KiB outside the arena: give a memory.reserve");
  summary.ranks[1].device_memory = true;
  expect_end(summary.ranks, ErrorKind::OutOfMemory, "1.46 KiB outside the arena, what other processes took of the GPU");
  expect_end(std::vector<RankSummary>(9, summary.ranks[1]), ErrorKind::OutOfMemory, "; and 5 more rank(s)");
  EXPECT_NE(memory_report(summary).find(fmt::format("  {:<24}{:>16}{:>16}\n", "OVER BUDGET by", 0, 500)),
            std::string::npos)
      << memory_report(summary);
  const TempFolder folder;
  write_summary(summary, folder.path().string());
  EXPECT_EQ(nlohmann::json::parse(read_text(folder / "summary.json"))["ranks"][1]["over_budget_bytes"], 500);
}

}  // namespace
}  // namespace plimsoll
