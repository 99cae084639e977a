// `plan --why`: every number is that of a plan which is made with the constraint changed.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "launch/cluster_file.hpp"
#include "launch/commands.hpp"
#include "launch/layout_choice.hpp"
#include "launch/run_costs.hpp"
#include "tests/support/temp_folder.hpp"

namespace plimsoll {
namespace {

constexpr int kRanks = 8;
constexpr std::int64_t kGibibyte = std::int64_t{1} << 30, kTight = std::int64_t{8} << 20;
const std::string kRows = "train.micro_batch=8";

ClusterDescription slow_cluster() {
  ClusterDescription c;
  c.devices_per_node = 2;
  c.device.memory_bytes = kGibibyte;
  c.inside = {5e-6, 1e9};
  c.between = {20e-6, 1e8};
  return c;
}

class PlanWhyTest : public testing::Test {
 protected:
  PlanWhyTest() {
    std::ofstream(cluster()) << write_cluster(slow_cluster(), "");
    std::ofstream(run()) << "model: {family: llama, layers: 8, hidden: 64, heads: 4, kv_heads: 4, ffn: 256, "
                            "vocabulary: 61, positions: 64}\n"
                            "data: {train: none, sequence: 64, validation: 0}\n"
                            "train: {global_batch: 64}\n"
                            "memory: {reserve: 1MiB}\n"
                            "run: {threads: 1}\n"
                            "parallel: auto\n";
  }
  std::string cluster() const { return (folder_ / "cluster.yaml").string(); }
  std::string run() const { return (folder_ / "run.yaml").string(); }

  nlohmann::json plan(std::int64_t budget, bool why, std::vector<std::string> overrides = {}) const {
    PlanArguments plan;
    plan.ranks = kRanks;
    plan.why = why;
    plan.cluster = cluster();
    plan.budget = std::to_string(budget);
    testing::internal::CaptureStdout();
    EXPECT_EQ(command_plan({run(), std::move(overrides)}, plan, true), 0);
    return nlohmann::json::parse(testing::internal::GetCapturedStdout());
  }
  // The least estimate, of which prices are.
  static double step_ms(const nlohmann::json& plan) {
    double least = std::numeric_limits<double>::infinity();
    for (const nlohmann::json& l : plan["layouts"]["best"]) least = std::min(least, l["step_ms"].get<double>());
    return least;
  }
  static double first_step_ms(const nlohmann::json& plan) { return plan["layouts"]["best"][0]["step_ms"]; }

 private:
  test::TempFolder folder_;
};

const nlohmann::json& change(const nlohmann::json& why, const std::string& key, const std::string& text) {
  for (const nlohmann::json& c : why["changes"]) {
    if (c["key"] == key && c["change"] == text) return c;
  }
  static const nlohmann::json none;
  ADD_FAILURE() << key << ", " << text << " is not in " << why.dump(2);
  return none;
}

// Large micro-batches in little memory: something has to be made again.
TEST_F(PlanWhyTest, PricesAreThoseOfPlansWithTheConstraintChanged) {
  const std::int64_t budget = kTight;
  const nlohmann::json tight = plan(budget, true, {kRows}), why = tight["why"];
  EXPECT_DOUBLE_EQ(why["step_ms"], first_step_ms(tight));
  EXPECT_GT(why["recompute_ms"], 0.0);
  EXPECT_EQ(why["memory"]["budget_bytes"], budget);
  EXPECT_EQ(why["memory"]["needed_bytes"], tight["needed_bytes"]);  // the largest role has least to spare
  EXPECT_NE(why["memory"]["node"].get<std::string>().find(tight["programs"]["train"]["peak_node"]), std::string::npos);

  const auto expect = [&](const char* key, const std::string& text, double step, double batches) {
    const nlohmann::json& c = change(why, key, text);
    EXPECT_DOUBLE_EQ(c["step_ms"].get<double>() * batches, step) << key << ", " << text;
    EXPECT_NEAR(c["gain_ms"].get<double>(), step_ms(tight) - step / batches, 1e-9) << key;
  };
  expect("memory.budget", "+ 10 %", step_ms(plan(budget + budget / 100 * 10, false, {kRows})), 1);
  expect("memory.budget", "+ 1.00 GiB", step_ms(plan(budget + kGibibyte, false, {kRows})), 1);
  expect("memory.budget", "no limit", step_ms(plan(64 * kGibibyte, false, {kRows})), 1);
  expect("train.global_batch", "twice as many sequences",
         step_ms(plan(budget, false, {kRows, "train.global_batch=128"})), 2);
  expect("train.micro_batch", "auto", step_ms(plan(budget, false)), 1);
  // More memory is never slower, and here it binds.
  EXPECT_GE(change(why, "memory.budget", "+ 10 %")["gain_ms"], 0.0);
  EXPECT_GT(change(why, "memory.budget", "no limit")["gain_ms"], 0.0);
}

TEST_F(PlanWhyTest, KeptBytesAreTheLeastBudgetThatRecomputesNothing) {
  const nlohmann::json tight = plan(kTight, true, {kRows});
  const std::string layout = "parallel=" + tight["layouts"]["best"][0]["parallel"].get<std::string>();
  const std::int64_t kept = tight["why"]["kept_bytes"];
  const auto recomputes = [&](std::int64_t budget) {
    const nlohmann::json exact = plan(budget, false, {layout, kRows});
    return exact["recompute"].contains("yaml");
  };
  EXPECT_FALSE(recomputes(kept));
  EXPECT_TRUE(recomputes(kept - 1));
}

// An explicit layout is asked about too: what is given could be left to the planner, and links have a price.
TEST_F(PlanWhyTest, GivenSettingsAndLinksHaveAPrice) {
  const std::vector<std::string> given{"parallel={tensor: 2, pipeline: 2, zero: 1}", "train.micro_batch=1"};
  const nlohmann::json why = plan(kGibibyte, true, given)["why"];
  std::vector<std::string> freer{given.front()};
  EXPECT_DOUBLE_EQ(change(why, "train.micro_batch", "auto")["step_ms"], step_ms(plan(kGibibyte, false, freer)));
  EXPECT_DOUBLE_EQ(change(why, "parallel", "auto")["step_ms"], step_ms(plan(kGibibyte, false, {given.back()})));

  std::map<std::string, nlohmann::json> axes;
  for (const nlohmann::json& a : why["messages"]) axes[a["axis"]] = a;
  ASSERT_EQ(axes.size(), 3U);
  EXPECT_TRUE(axes.at("tensor")["inside_nodes"].get<bool>());
  EXPECT_FALSE(axes.at("data")["inside_nodes"].get<bool>());
  // Tensor is the only axis inside nodes: what is less over links twice as fast is what the estimate says of such ones.
  Config config = load_config(run(), given);
  const auto step = [&](double factor) {
    ClusterDescription c = slow_cluster();
    c.inside.latency_s *= factor;
    c.inside.bytes_per_s /= factor;
    const DescribedCosts costs(c);
    const LayoutChoice predicted = predict_layout(config, {0, kRanks, 0, kRanks}, {c, &costs}, 0, 0);
    const RankedLayout& r = predicted.best.front();
    return r.estimate.step_s + r.estimate.sizes_s;
  };
  EXPECT_NEAR(axes.at("tensor")["twice_as_fast_ms"].get<double>(), 1e3 * (step(1) - step(0.5)), 1e-6);
  EXPECT_NEAR(axes.at("tensor")["exposed_ms"].get<double>(), 1e3 * (step(1) - step(1e-9)), 1e-3);
}

TEST_F(PlanWhyTest, EveryOtherLayoutIsListedWithItsReason) {
  const nlohmann::json why = plan(kGibibyte, true), layouts = why["layouts"];
  EXPECT_EQ(layouts["fell"].size() + layouts["best"].size(), layouts["tried"].get<std::size_t>());
  double last = 0;
  double best = 0;
  for (const nlohmann::json& l : layouts["best"]) best = std::max(best, l["step_ms"].get<double>());
  for (const nlohmann::json& f : layouts["fell"]) {
    EXPECT_TRUE(layouts["fallen"].contains(f["reason"].get<std::string>()));
    EXPECT_GE(f["micro_batch"].get<std::int64_t>(), 1);
    const ParallelConfig parallel = read_parallel_line(f["parallel"], "plan");  // as a configuration says it
    EXPECT_FALSE(parallel.automatic);
    if (f["reason"] != "time") continue;
    EXPECT_EQ(*parallel.data * parallel.pipeline * parallel.tensor, kRanks);
    const std::string text = f["text"];
    const double ms = std::stod(text.substr(text.find_last_of(' ', text.size() - 4)));
    EXPECT_GE(ms, best * (1 - 1e-3)) << text;
    EXPECT_GE(ms, last * (1 - 1e-3)) << text;
    last = ms;
  }
  EXPECT_GT(last, 0);
  // The simulation chooses, and changes are held against the least estimate.
  const nlohmann::json& first = layouts["best"][0];
  EXPECT_EQ(why["why"].contains("simulated_ms"), first.contains("simulated_ms"));
  if (first.contains("simulated_ms")) {
    EXPECT_DOUBLE_EQ(why["why"]["simulated_ms"], first["simulated_ms"]);
  }
  EXPECT_DOUBLE_EQ(why["why"]["base_ms"], step_ms(why));
  EXPECT_EQ(why["why"].contains("base_layout"), step_ms(why) < first_step_ms(why));
  // What the layouts behind the best take longer is all of what they take longer for.
  for (std::size_t i = 1; i < layouts["best"].size(); ++i) {
    const nlohmann::json& other = why["why"]["others"][i - 1];
    EXPECT_NEAR(other["step_ms"].get<double>(), layouts["best"][i]["step_ms"].get<double>() - first_step_ms(why), 1e-9);
    EXPECT_EQ(other.contains("simulated_ms"), layouts["best"][i].contains("simulated_ms"));
    if (other.contains("simulated_ms")) {
      EXPECT_GE(other["simulated_ms"], 0) << "the choice is not the fastest by simulation";
    }
    EXPECT_NEAR(other["recompute_ms"].get<double>(),
                layouts["best"][i]["recompute_ms"].get<double>() - layouts["best"][0]["recompute_ms"].get<double>(),
                1e-9);
  }
}

}  // namespace
}  // namespace plimsoll
