// `memory.recompute: auto` where only row-splits fit, and that they are kept.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "launch/plan_report.hpp"
#include "launch/recompute_report.hpp"
#include "runtime/graph/row_splits.hpp"
#include "tests/launch/recompute_cases.hpp"

namespace plimsoll {
namespace {

using namespace test;

// MLPs run in blocks of rows where nothing else fits, and nowhere else.
TEST(RowSplitChoice, SplitsRowsBelowTheLeastOfAllElse) {
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
TEST(RowSplitChoice, SplitsNoRowsWhereTheyDoNotGoWithTheLayout) {
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

TEST(RowSplitChoice, RowSplitsAreWrittenReadBackAndReported) {
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

}  // namespace
}  // namespace plimsoll
