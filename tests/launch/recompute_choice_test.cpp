// `memory.recompute: auto`: the byte plan is within the budget, whatever it is, and nothing is recomputed for nothing.

#include "launch/recompute_choice.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "launch/plan_report.hpp"
#include "launch/recompute_report.hpp"
#include "launch/run_costs.hpp"
#include "launch/run_setup.hpp"
#include "runtime/graph/row_splits.hpp"
#include "runtime/plan/offload_costs.hpp"
#include "tests/launch/tiny_run.hpp"

namespace plimsoll {
namespace {

using namespace test;

struct Case {
  std::string name;
  ModelFamily family;
  Mesh mesh;
  int zero = 0;
  bool sequence_parallel = false;
  ScheduleKind schedule = ScheduleKind::OneFOneB;
  int chunks = 1;
  HostMemory host = {};
};
// A link that is faster than any kernel, whose copies take time of compute all the same.
constexpr HostMemory kOffered{kNoHostLimit, true, false};
DescribedCosts costs_with_link(double latency_s, double bytes_per_s) {
  ClusterDescription cluster;
  cluster.device.host = {latency_s, bytes_per_s};
  return DescribedCosts(cluster);
}

ProgramOptions options_of(const Case& c) {
  ProgramOptions o = tiny_options(c.family);
  o.model.layers = 8;
  if (c.family == ModelFamily::Gpt2) o.model.dropout = 0.1;
  o.sequence = 64;
  o.mesh = c.mesh;
  o.mesh.shards = c.zero > 0 ? c.mesh.data : 1;
  o.zero = c.zero;
  o.sequence_parallel = c.sequence_parallel;
  o.schedule = c.schedule;
  o.chunks = c.chunks;
  o.micro_batches = 8;
  o.evaluate = true;
  o.host = c.host;
  return o;
}

// The most that a rank of any stage needs, and what the slowest one adds to a micro-batch.
struct Outcome {
  std::int64_t bytes = 0;
  double seconds = 0;
  std::int64_t host = 0;
};
Outcome outcome_of(ProgramOptions o, const CostModel& costs) {
  Outcome outcome;
  for (int stage = 0; stage < o.mesh.pipeline; ++stage) {
    o.rank = rank_at(o.mesh, {0, stage, 0});
    const Programs programs = build_programs(o);
    outcome.bytes = std::max(outcome.bytes, programs.plan.total_bytes);
    outcome.host = std::max(outcome.host, programs.plan.host_bytes);
    const Graph& graph = programs.graph("train");
    outcome.seconds = std::max(outcome.seconds, recompute_seconds(graph, costs) + row_split_seconds(o, costs) +
                                                    offload_seconds(graph, costs, o.host.overlap));
  }
  return outcome;
}

class RecomputeChoiceOn : public testing::TestWithParam<Case> {};

TEST_P(RecomputeChoiceOn, FitsEveryBudgetAtACostThatNeverRises) {
  const DescribedCosts costs = GetParam().host.offered ? costs_with_link(1e-8, 1e12) : costs_with_link(1e-6, 6e9);
  ProgramOptions o = options_of(GetParam());
  const std::int64_t none = outcome_of(o, costs).bytes;
  const RecomputeChoice least = choose_recompute(o, costs, 1);
  EXPECT_FALSE(least.fits);
  o.recompute = least.layers;
  const std::int64_t fewest = outcome_of(o, costs).bytes;
  ASSERT_LT(fewest, none);
  std::int64_t needed = 0;
  for (const StageChoice& stage : least.stages) needed = std::max(needed, stage.arena_bytes);
  EXPECT_EQ(needed, fewest) << "what the report names";

  const RecomputeChoice enough = choose_recompute(o, costs, none);
  EXPECT_TRUE(enough.fits);
  EXPECT_TRUE(enough.layers.empty()) << "nothing for nothing";

  double last = 1e9, last_step = 1e9;
  for (int step = 0; step < 12; ++step) {
    const std::int64_t budget = fewest + (none - 1 - fewest) * step / 11;
    SCOPED_TRACE(budget);
    const RecomputeChoice choice = choose_recompute(o, costs, budget);
    EXPECT_TRUE(choice.fits);
    EXPECT_FALSE(choice.layers.empty());
    o.recompute = choice.layers;
    const Outcome outcome = outcome_of(o, costs);
    EXPECT_LE(outcome.bytes, budget);
    EXPECT_GT(outcome.seconds, 0);
    EXPECT_LE(choice.step_seconds, last_step);
    last_step = choice.step_seconds;
    // Zero-bubble schedules make some values once for each half of backward, which the planner does not know.
    if (GetParam().schedule != ScheduleKind::ZbH1) {
      EXPECT_LE(outcome.seconds, last * (1 + 1e-9));
    }
    last = outcome.seconds;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Meshes, RecomputeChoiceOn,
    testing::Values(
        Case{"gpt2", ModelFamily::Gpt2, {}}, Case{"llama", ModelFamily::Llama, {}},
        Case{"gpt2_tensor", ModelFamily::Gpt2, {.tensor = 2}},
        Case{"llama_sequence", ModelFamily::Llama, {.tensor = 2}, 0, true},
        Case{"gpt2_zero3", ModelFamily::Gpt2, {.data = 2}, 3},
        Case{"llama_pipeline", ModelFamily::Llama, {.pipeline = 4}},
        Case{"gpt2_pipeline_tensor", ModelFamily::Gpt2, {.data = 2, .pipeline = 2, .tensor = 2}, 1, true},
        Case{"llama_interleaved", ModelFamily::Llama, {.pipeline = 2}, 0, false, ScheduleKind::Interleaved, 2},
        Case{"gpt2_zero_bubble", ModelFamily::Gpt2, {.pipeline = 2}, 0, false, ScheduleKind::ZbH1},
        Case{"llama_offload", ModelFamily::Llama, {}, 0, false, ScheduleKind::OneFOneB, 1, kOffered},
        Case{
            "gpt2_pipeline_offload", ModelFamily::Gpt2, {.pipeline = 2}, 0, false, ScheduleKind::OneFOneB, 1, kOffered},
        Case{
            "gpt2_zero_bubble_offload", ModelFamily::Gpt2, {.pipeline = 2}, 0, false, ScheduleKind::ZbH1, 1, kOffered}),
    [](const auto& c) { return c.param.name; });

// Stages in the front hold more micro-batches, so they recompute more.
TEST(RecomputeChoice, StagesAreBoundByTheirOwnMicroBatchesInFlight) {
  const DescribedCosts costs{ClusterDescription{}};
  ProgramOptions o = options_of({"", ModelFamily::Llama, {.pipeline = 4}});
  o.stage_layers = {2, 2, 2, 2};
  const std::int64_t none = outcome_of(o, costs).bytes;
  ProgramOptions least = o;
  least.recompute = choose_recompute(o, costs, 1).layers;
  const std::int64_t fewest = outcome_of(least, costs).bytes;
  const RecomputeChoice choice = choose_recompute(o, costs, fewest + (none - fewest) / 3);
  ASSERT_TRUE(choice.fits);
  EXPECT_EQ(choice.stages.size(), 4U);
  EXPECT_GT(choice.of_stage(0).plan.seconds, 0);
  EXPECT_GE(choice.of_stage(0).plan.seconds, choice.of_stage(1).plan.seconds);
  EXPECT_GE(choice.of_stage(1).plan.seconds, choice.of_stage(2).plan.seconds);
  EXPECT_TRUE(choice.of_stage(3).plan.layers.empty()) << "one micro-batch at a time fits as it is";
  EXPECT_EQ(choice.layers[7], LayerRecompute{});
}

// Bytes of what the first half of backward makes and the second reads: nothing makes a gradient again.
std::int64_t held_gradient_bytes(const Graph& graph) {
  std::set<ValueId> made, held;
  for (std::size_t n = graph.backward_begin; n < graph.update_begin; ++n) {
    const Node& node = graph.nodes[n];
    for_each_access(graph, node, [&](const MemoryAccess& a) {
      const ValueId root = graph.root(a.value);
      if (graph[root].persistent) return;
      if (!node.late && !node.again && a.writes) made.insert(root);
      if (node.late && made.contains(root)) held.insert(root);
    });
  }
  std::int64_t bytes = 0;
  for (const ValueId v : held) bytes += graph[v].spec.bytes();
  return bytes;
}

// Why a zero-bubble schedule fits into less than 1F1B nowhere: recomputation does nothing about the gradients that wait
// for weight gradients, of as many micro-batches as there are stages.
TEST(RecomputeChoice, ZeroBubbleHoldsTheGradientsOfWhatWaits) {
  const DescribedCosts costs{ClusterDescription{}};
  const auto least = [&](ScheduleKind schedule) {
    ProgramOptions o = options_of({"", ModelFamily::Llama, {.pipeline = 4}, 0, false, schedule});
    o.recompute = choose_recompute(o, costs, 1).layers;
    o.rank = 3;
    return build_programs(o);
  };
  const Programs zero_bubble = least(ScheduleKind::ZbH1), usual = least(ScheduleKind::OneFOneB);
  const ProgramLayout& train = zero_bubble.plan.program("train");
  ASSERT_EQ(train.slots.size(), 1U);
  EXPECT_EQ(train.slots.front().count, 4);
  const std::int64_t held = held_gradient_bytes(zero_bubble.graph("train"));
  EXPECT_GE(train.slots.front().bytes, held);
  EXPECT_LT(train.slots.front().bytes, 2 * held) << "and little else";
  EXPECT_GT(4 * held, 3 * (usual.plan.total_bytes - usual.plan.persistent_bytes));
}

// The least that the planner finds without them.
std::int64_t least_without_row_splits(ProgramOptions o, const CostModel& costs) {
  const GraphStage stage = stage_graph(o, costs);
  EXPECT_FALSE(stage.stage.row_splits);
  const auto none = std::get<RecomputeInfeasible>(plan_recompute(stage.stage, 0));
  const auto least = std::get<RecomputePlan>(plan_recompute(stage.stage, none.needed_bytes));
  o.recompute = layer_recompute(stage, least);
  std::int64_t bytes = outcome_of(o, costs).bytes;
  o.recompute.assign(static_cast<std::size_t>(o.model.layers), {RecomputeMode::Full, {}});
  bytes = std::min(bytes, outcome_of(o, costs).bytes);
  return bytes;
}

// MLPs run in blocks of rows where nothing else fits, and nowhere else.
TEST(RecomputeChoice, SplitsRowsBelowTheLeastOfAllElse) {
  const DescribedCosts costs{ClusterDescription{}};
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    ProgramOptions o = options_of({"", family, {}});
    const std::int64_t floor = least_without_row_splits(o, costs);
    const RecomputeChoice at_floor = choose_recompute(o, costs, floor);
    EXPECT_TRUE(at_floor.fits);
    EXPECT_FALSE(has_row_splits(at_floor.layers));
    const RecomputeChoice least = choose_recompute(o, costs, 1);
    EXPECT_FALSE(least.fits);
    EXPECT_TRUE(has_row_splits(least.layers));
    const std::int64_t fewest = least.stages.front().arena_bytes;
    ASSERT_LT(fewest, floor);
    double last = std::numeric_limits<double>::infinity();
    for (const std::int64_t budget : {fewest, (fewest + floor) / 2, floor - 1}) {
      SCOPED_TRACE(budget);
      const RecomputeChoice choice = choose_recompute(o, costs, budget);
      EXPECT_TRUE(choice.fits);
      EXPECT_TRUE(has_row_splits(choice.layers));
      EXPECT_EQ(choice.stages.front().plan.level, RecomputeLevel::RowSplits);
      ProgramOptions chosen = o;
      chosen.recompute = choice.layers;
      const Programs programs = build_programs(chosen);
      EXPECT_EQ(check_memory(programs.list(), programs.plan), std::nullopt);
      EXPECT_LE(programs.plan.total_bytes, budget);
      const double seconds = recompute_seconds(programs.graph("train"), costs) + row_split_seconds(chosen, costs);
      EXPECT_NEAR(seconds, choice.stages.front().plan.seconds, 1e-9 * choice.step_seconds);
      EXPECT_LE(seconds, last);
      last = seconds;
    }
    EXPECT_LE(at_floor.stages.front().plan.seconds, last);
  }
}

// Pieces that linears are cut into already, and weight gradients that wait, keep MLPs whole.
TEST(RecomputeChoice, SplitsNoRowsWhereTheyDoNotGoWithTheLayout) {
  const DescribedCosts costs{ClusterDescription{}};
  const auto least = [&](const ProgramOptions& o) { return choose_recompute(o, costs, 1).layers; };
  ProgramOptions tensor = options_of({"", ModelFamily::Llama, {.tensor = 2}});
  EXPECT_TRUE(has_row_splits(least(tensor)));
  tensor.tensor_chunks = 2;
  EXPECT_FALSE(has_row_splits(least(tensor)));
  ProgramOptions pipeline = options_of({"", ModelFamily::Llama, {.pipeline = 2}});
  EXPECT_TRUE(has_row_splits(least(pipeline)));
  pipeline.recompute = least(pipeline);
  ProgramOptions cut = pipeline;
  cut.pipeline_chunks = 2;
  EXPECT_FALSE(has_row_splits(least(cut)));
  EXPECT_THROW(build_programs(cut), Error);
  pipeline.schedule = ScheduleKind::ZbH1;
  EXPECT_FALSE(has_row_splits(least(pipeline)));
}

Config config_of(const std::vector<std::string>& overrides = {}) {
  std::vector<std::string> all{"run.threads=1"};
  all.insert(all.end(), overrides.begin(), overrides.end());
  return parse_config(
      "model: {family: gpt2, layers: 6, hidden: 48, heads: 4, vocabulary: 61, positions: 64}\n"
      "data: {train: none, sequence: 64, validation: 0}\n"
      "train: {global_batch: 8, micro_batch: 8}\n",
      "f", all);
}

TEST(RecomputeChoice, IsWhatAutoMeans) {
  const Config config = config_of();
  EXPECT_EQ(config.memory.recompute, RecomputeMode::Auto);
  const auto choose = [](const Config& c, std::int64_t budget) {
    return choose_programs(c, {}, Purpose::Train, budget, 0);
  };
  const ProgramOptions most = choose(config, 0);
  EXPECT_TRUE(most.recompute.empty()) << "no budget, no need";
  const std::int64_t none = planned_bytes(most);
  EXPECT_TRUE(choose(config, none).recompute.empty());
  const ProgramOptions less = choose(config, none * 8 / 10);
  EXPECT_FALSE(less.recompute.empty());
  EXPECT_LE(planned_bytes(less), none * 8 / 10);
  EXPECT_TRUE(choose_programs(config, {}, Purpose::Evaluate, none * 8 / 10, 0).recompute.empty());
  // What did not fit stops the run, with the bytes of the least.
  const ProgramOptions least = choose(config, 1000);
  const auto no = check_budget(build_programs(least), least, 1000, 0);
  ASSERT_TRUE(no);
  EXPECT_EQ(no->needed_bytes, planned_bytes(least));
  EXPECT_FALSE(check_budget(build_programs(choose(config, no->needed_bytes)), least, no->needed_bytes, 0));
  // Explicit modes are taken at their word.
  EXPECT_TRUE(choose(config_of({"memory.recompute=none"}), none * 8 / 10).recompute.empty());
}

// A micro-batch that fits as it is comes before larger ones that would recompute for nothing in return.
TEST(RecomputeChoice, WeighsItAgainstSmallerMicroBatches) {
  Config config = config_of();
  config.train.micro_batch.reset();
  const ProgramOptions most = choose_programs(config, {}, Purpose::Train, 0, 0);
  EXPECT_EQ(most.micro_batch, 8);
  const DescribedCosts costs{ClusterDescription{}};
  for (const int percent : {95, 80, 65, 50}) {
    const std::int64_t budget = planned_bytes(most) * percent / 100;
    const ProgramOptions chosen = choose_programs(config, {}, Purpose::Train, budget, 0);
    EXPECT_LE(planned_bytes(chosen), budget) << percent;
    const double seconds = choose_recompute(chosen, costs, budget).step_seconds;
    for (const std::int64_t rows : {8, 4, 2, 1}) {
      ProgramOptions other = chosen;
      other.micro_batch = rows;
      other.micro_batches = 8 / rows;
      const RecomputeChoice choice = choose_recompute(other, costs, budget);
      if (choice.fits) {
        EXPECT_LE(seconds, choice.step_seconds) << percent << " %, " << rows;
      }
    }
  }
}

TEST(RecomputeChoice, IsWrittenAndReadBack) {
  const Config config = config_of();
  const std::int64_t none = planned_bytes(choose_programs(config, {}, Purpose::Train, 0, 0));
  const std::int64_t budget = none * 7 / 10;
  const ProgramOptions o = choose_programs(config, {}, Purpose::Train, budget, 0);
  const std::string line = recompute_line(o.recompute);
  EXPECT_EQ(read_recompute_line(line, "plan.json"), o.recompute) << line;
  EXPECT_THROW(read_recompute_line("[none, {keep: 3, also: 4}]", "plan.json"), Error);
  const Config same = config_of({"memory.recompute=" + line});
  EXPECT_EQ(same.memory.recompute_layers, o.recompute);
  const ProgramOptions again = choose_programs(same, {}, Purpose::Train, budget, 0);
  EXPECT_EQ(dump_text(build_programs(again).graph("train")), dump_text(build_programs(o).graph("train")));
  EXPECT_TRUE(same_values(parse_config(dump_config(same), "again"), same));
  // A value that the layer does not have is named, with those that it has.
  try {
    choose_programs(config_of({"memory.recompute=[none, none, none, none, none, {keep: [mlp.sideways]}]"}), {},
                    Purpose::Train, none, 0);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::Config);
    EXPECT_NE(std::string(e.what()).find("layer 5 makes no 'mlp.sideways'"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("attention.qkv.y"), std::string::npos) << e.what();
  }
}

TEST(RecomputeChoice, RowSplitsAreWrittenReadBackAndReported) {
  const Config config = config_of({"train.micro_batch=1"});
  const ProgramOptions least = choose_programs(config, {}, Purpose::Train, 1000, 0);
  ASSERT_TRUE(has_row_splits(least.recompute));
  EXPECT_EQ(read_recompute_line(recompute_line(least.recompute), "plan.json"), least.recompute);
  const std::string line = "[none, {mode: full, rows: 4}, {keep: [ln_1.sum], rows: 2}, none, none, none]";
  const std::vector<LayerRecompute> layers = read_recompute_line(line, "plan.json");
  EXPECT_EQ(layers[1], (LayerRecompute{RecomputeMode::Full, {}, {}, 4}));
  EXPECT_EQ(layers[2], (LayerRecompute{RecomputeMode::Auto, {"ln_1.sum"}, {}, 2}));
  EXPECT_EQ(recompute_line(layers), line);
  const Config listed = config_of({"memory.recompute=" + line, "train.micro_batch=1"});
  EXPECT_TRUE(same_values(parse_config(dump_config(listed), "again"), listed));
  const ProgramOptions o = choose_programs(listed, {}, Purpose::Train, 0, 0);
  EXPECT_EQ(o.recompute, layers);
  const std::vector<RankRole> roles = rank_roles(o);
  const auto reports = recompute_reports(roles, DescribedCosts(ClusterDescription{}), std::nullopt);
  const std::string text = recompute_text(roles.front(), &reports.front());
  EXPECT_NE(text.find("MLP in 4 blocks of rows, full in 1 layer(s) (1)"), std::string::npos) << text;
  EXPECT_NE(text.find("row-splits: sums in another order, equal to 1e-6"), std::string::npos) << text;
  const nlohmann::json json = recompute_json(roles.front(), &reports.front());
  EXPECT_EQ(json["layers"][1], (nlohmann::json{{"mode", "full"}, {"rows", 4}}));
  EXPECT_EQ(json["layers"][2]["rows"], 2);
  // Made again like without rows, by the names of whole values.
  for (const nlohmann::json& group : json["again"]) {
    const auto values = group["values"].get<std::vector<std::string>>();
    EXPECT_EQ(std::find(values.begin(), values.end(), "mlp.up.y") != values.end(), !values.empty()) << group;
  }
  // Of a micro-batch that they do not divide.
  const auto wrong = [&](const std::string& recompute) -> std::string {
    try {
      choose_programs(config_of({"memory.recompute=" + recompute, "train.micro_batch=1"}), {}, Purpose::Train, 0, 0);
      build_programs(choose_programs(config_of({"memory.recompute=" + recompute, "train.micro_batch=1"}), {},
                                     Purpose::Train, 0, 0));
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::Config);
      return e.what();
    }
    return "";
  };
  EXPECT_NE(wrong("[none, {mode: full, rows: 5}, none, none, none, none]").find("5 blocks do not divide the 64 rows"),
            std::string::npos);
  EXPECT_NE(wrong("[none, {mode: none, rows: 4}, none, none, none, none]").find("layer 1 keeps 'mlp.up.y'"),
            std::string::npos);
}

bool offloads(const std::vector<LayerRecompute>& layers) {
  return std::any_of(layers.begin(), layers.end(), [](const LayerRecompute& l) { return !l.offload.empty(); });
}

TEST(RecomputeChoice, OffloadsWhereTheLinkIsFastAndNeverWhereItIsSlow) {
  const DescribedCosts fast = costs_with_link(1e-8, 1e12), slow = costs_with_link(1e-3, 1e6);
  for (const bool overlap : {false, true}) {
    ProgramOptions o = options_of({"", ModelFamily::Llama, {}});
    const std::int64_t none = outcome_of(o, fast).bytes;
    const std::int64_t alone = least_without_row_splits(o, fast);
    for (int step = 0; step < 5; ++step) {
      const std::int64_t budget = alone + (none - 1 - alone) * step / 4;
      SCOPED_TRACE(budget);
      o.host = {};
      const RecomputeChoice without = choose_recompute(o, slow, budget);
      ASSERT_TRUE(without.fits);
      EXPECT_FALSE(offloads(without.layers)) << "it was not offered";
      o.host = {kNoHostLimit, true, overlap};
      EXPECT_EQ(choose_recompute(o, slow, budget).layers, without.layers);
      const RecomputeChoice with = choose_recompute(o, fast, budget);
      ASSERT_TRUE(with.fits);
      EXPECT_LE(with.stages.front().plan.seconds, without.stages.front().plan.seconds);
      if (step == 0) continue;  // the least of all may be to make everything again
      EXPECT_TRUE(offloads(with.layers));
      EXPECT_LT(with.stages.front().plan.seconds, without.stages.front().plan.seconds / 2);
    }
  }
}

// The cost rises as host memory falls; none of it is the choice without.
TEST(RecomputeChoice, StaysWithinTheHostBudget) {
  const DescribedCosts costs = costs_with_link(1e-8, 1e12);
  for (const Mesh& mesh : {Mesh{}, Mesh{.pipeline = 2}}) {
    ProgramOptions o = options_of({"", ModelFamily::Gpt2, mesh});
    const std::int64_t none = outcome_of(o, costs).bytes;
    ProgramOptions least = o;
    least.recompute = choose_recompute(o, costs, 1).layers;
    const std::int64_t fewest = outcome_of(least, costs).bytes;
    const std::int64_t budget = fewest + (none - fewest) / 3;
    const RecomputeChoice without = choose_recompute(o, costs, budget);
    o.host = kOffered;
    const RecomputeChoice all = choose_recompute(o, costs, budget);
    o.recompute = all.layers;
    const std::int64_t most = outcome_of(o, costs).host;
    ASSERT_GT(most, 0);
    double last = all.step_seconds;
    for (const int percent : {100, 70, 40, 10, 0}) {
      SCOPED_TRACE(percent);
      o.host.bytes = most * percent / 100;
      const RecomputeChoice choice = choose_recompute(o, costs, budget);
      ASSERT_TRUE(choice.fits);
      o.recompute = choice.layers;
      const Outcome outcome = outcome_of(o, costs);
      EXPECT_LE(outcome.bytes, budget);
      EXPECT_LE(outcome.host, o.host.bytes);
      EXPECT_EQ(percent > 0, outcome.host > 0);
      EXPECT_GE(choice.step_seconds, last * (1 - 1e-9));
      EXPECT_LE(choice.step_seconds, without.step_seconds * (1 + 1e-9));
      for (const StageChoice& stage : choice.stages) EXPECT_LE(stage.plan.bound_seconds, stage.plan.seconds);
      last = choice.step_seconds;
    }
  }
}

TEST(RecomputeChoice, WhatItOffloadsChangesNoBitAndIsPlannedToTheByte) {
  ProgramOptions o = options_of({"", ModelFamily::Gpt2, {}, 0, false, ScheduleKind::OneFOneB, 1, kOffered});
  o.model.layers = 4;
  const auto run = [&] {
    Engine engine(build_programs(o), {1, false, {}, nullptr});
    engine.initialise(1);
    std::vector<double> all;
    for (std::int64_t step = 0; step < 2; ++step)
      all.push_back(tiny_step(engine, o, step, 0, 2 * o.micro_batch, 2 * o.micro_batch).loss());
    const TinyBatch batch = tiny_batch(o, 99, 0, o.micro_batch);
    double sum = 0, count = 0;
    engine.evaluate_micro_batch(batch.tokens, batch.targets, sum, count);
    EXPECT_EQ(engine.arena().high_water(), engine.programs().plan.total_bytes);
    EXPECT_EQ(engine.host_arena() != nullptr, offloads(o.recompute));
    if (engine.host_arena() != nullptr) {
      EXPECT_EQ(engine.host_arena()->high_water(), engine.programs().plan.host_bytes);
    }
    const std::vector<double> parameters = region_values(engine, "parameters");
    all.insert(all.end(), parameters.begin(), parameters.end());
    return all;
  };
  const std::vector<double> none = run();
  const DescribedCosts costs = costs_with_link(1e-8, 1e12);
  const std::int64_t bytes = planned_bytes(o);
  for (const int percent : {90, 75, 60}) {
    SCOPED_TRACE(percent);
    const RecomputeChoice choice = choose_recompute(o, costs, bytes * percent / 100);
    ASSERT_TRUE(choice.fits);
    ASSERT_TRUE(offloads(choice.layers));
    o.recompute = choice.layers;
    EXPECT_LE(planned_bytes(o), choice.stages.front().arena_bytes);
    EXPECT_EQ(build_programs(o).plan.host_bytes, choice.stages.front().host_bytes);
    EXPECT_TRUE(run() == none);
  }
}

// On the CPU host memory is the same memory, so `auto` asks to be asked.
TEST(RecomputeChoice, OffloadsOnlyIntoAHostBudgetThatWasGiven) {
  const std::int64_t none = planned_bytes(choose_programs(config_of(), {}, Purpose::Train, 0, 0));
  const std::int64_t budget = none * 6 / 10;
  const DescribedCosts fast = costs_with_link(1e-8, 1e12);
  std::optional<RecomputeChoice> choice;
  const auto choose = [&](const std::vector<std::string>& overrides) {
    const Config config = config_of(overrides);
    const std::int64_t host = config.memory.host_budget.value_or(1 << 30);
    return choose_programs(config, {}, Purpose::Train, budget, 0, host, &fast, nullptr, &choice);
  };
  EXPECT_FALSE(offloads(choose({}).recompute));
  EXPECT_FALSE(offloads(choose({"memory.host_budget=0"}).recompute));
  const ProgramOptions o = choose({"memory.host_budget=2MiB"});
  ASSERT_TRUE(offloads(o.recompute));
  EXPECT_LE(build_programs(o).plan.host_bytes, 2 << 20);
  EXPECT_LE(planned_bytes(o), budget);
  // What was chosen is said, and can be read back.
  const std::string line = recompute_line(o.recompute);
  EXPECT_NE(line.find("offload: ["), std::string::npos) << line;
  EXPECT_EQ(read_recompute_line(line, "plan.json"), o.recompute);
  EXPECT_EQ(config_of({"memory.recompute=" + line}).memory.recompute_layers, o.recompute);
  const std::vector<RankRole> roles = rank_roles(o);
  PlanContext context;
  context.budget_bytes = budget;
  ASSERT_TRUE(choice);
  EXPECT_EQ(choice->layers, o.recompute);
  context.recompute = recompute_reports(roles, fast, choice);
  ASSERT_TRUE(context.recompute.front().planned);
  EXPECT_GT(context.recompute.front().offload_seconds, 0);
  const std::string text = plan_text(roles, context, nullptr);
  for (const char* part : {" and offload ", "copies to and from host memory", "host arena"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
  const nlohmann::json json = plan_json(roles, context)["recompute"];
  EXPECT_EQ(json["yaml"], line);
  EXPECT_FALSE(json["offloaded"].empty());
  EXPECT_GT(json["predicted_copies_share_of_step"], 0);
}

TEST(RecomputeChoice, TheReportHasThePredictionAndTheBaselines) {
  Config config = config_of();
  const std::int64_t none = planned_bytes(choose_programs(config, {}, Purpose::Train, 0, 0));
  const std::int64_t budget = none * 7 / 10;
  const DescribedCosts costs{choose_cluster(config)};
  std::optional<RecomputeChoice> choice;
  const ProgramOptions o =
      choose_programs(config, {}, Purpose::Train, budget, 0, kNoHostLimit, &costs, nullptr, &choice);
  const std::vector<RankRole> roles = rank_roles(o);
  PlanContext context;
  context.budget_bytes = budget;
  context.recompute = recompute_reports(roles, costs, choice);
  ASSERT_EQ(context.recompute.size(), 1U);
  const RecomputeReport& report = context.recompute.front();
  ASSERT_TRUE(report.planned);
  EXPECT_GT(report.recompute_seconds, 0);
  EXPECT_LE(report.planned->bound_seconds, report.recompute_seconds * (1 + 1e-9));
  for (const auto& other : {report.planned->first_layers, report.planned->uniform, report.planned->greedy}) {
    if (other) {
      EXPECT_GE(*other, report.planned->bound_seconds * (1 - 1e-9));
    }
  }
  const std::string text = plan_text(roles, context, nullptr);
  for (const char* part : {"all ranks: recompute ", "mlp.up.y", "predicted", "the first k layers in full", "greedy"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
  const nlohmann::json json = plan_json(roles, context)["recompute"];
  EXPECT_EQ(json["yaml"], recompute_line(o.recompute));
  EXPECT_GT(json["predicted_share_of_step"], 0);
  EXPECT_TRUE(json["planner"].contains("greedy_share_of_step"));
  // Without the planner: the same prediction, no comparison.
  const auto explicit_reports = recompute_reports(roles, costs, std::nullopt);
  EXPECT_EQ(explicit_reports.front().recompute_seconds, report.recompute_seconds);
  EXPECT_FALSE(explicit_reports.front().planned);
}

}  // namespace
}  // namespace plimsoll
