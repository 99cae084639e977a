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
#include "tests/launch/recompute_cases.hpp"

namespace plimsoll {
namespace {

using namespace test;

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

// The first layer has fewer values to send; in words that is the same mode.
TEST(RecomputeChoice, LayersOfAModeAreOneGroup) {
  const Config config = config_of({"memory.recompute=offload"});
  const std::vector<RankRole> roles = rank_roles(choose_programs(config, {}, Purpose::Train, 0, 0));
  const nlohmann::json json = recompute_json(roles.front(), nullptr);
  EXPECT_GT(json["offloaded"].size(), 1U) << json;
  const std::string text = recompute_text(roles.front(), nullptr);
  const auto layers = std::to_string(config.model.layers), last = std::to_string(config.model.layers - 1);
  EXPECT_TRUE(text.starts_with("all ranks: recompute offload in " + layers + " layer(s) (0-" + last + "): ")) << text;
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
