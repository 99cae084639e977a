// `parallel: auto`: what the planner chooses is the best of the whole grid, and its bounds hold.

#include "launch/layout_choice.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <fstream>

#include "launch/cluster_file.hpp"
#include "launch/commands.hpp"
#include "launch/known_plans.hpp"
#include "launch/run_costs.hpp"
#include "launch/step_times.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/rng.hpp"
#include "runtime/graph/row_splits.hpp"
#include "tests/support/temp_folder.hpp"

namespace plimsoll {
namespace {

Config small_config(const std::vector<std::string>& overrides = {}) {
  std::vector<std::string> all{"run.threads=1"};
  all.insert(all.end(), overrides.begin(), overrides.end());
  return parse_config(
      "model: {family: llama, layers: 4, hidden: 32, heads: 4, kv_heads: 2, ffn: 48, vocabulary: 61, positions: 64}\n"
      "data: {train: none, sequence: 32, validation: 0}\n"
      "train: {global_batch: 16}\n"
      "parallel: auto\n",
      "f", all);
}

// Slow links and small memory make every axis worth something.
ClusterDescription slow_cluster() {
  ClusterDescription c;
  c.devices_per_node = 4;
  c.inside = {5e-6, 1e9};
  c.between = {20e-6, 1e8};
  return c;
}

LayoutMachine slow_machine() {
  static const DescribedCosts costs(slow_cluster());
  return {costs.cluster(), &costs};
}

Place place_of(int ranks) { return {0, ranks, 0, ranks}; }

struct Grid {
  Config config;
  int ranks;
  ClusterDescription cluster = slow_cluster();
  DescribedCosts model{cluster};
  LayoutCosts costs{layout_problem(config, ranks, 0), {cluster, &model}};
  std::vector<Layout> layouts;
  Grid(Config c, int n) : config(std::move(c)), ranks(n) {
    config.memory.row_splits = false;  // which layouts are not compared by
    LayoutChoice fallen;
    layouts = enumerate_layouts(costs, cluster, fallen);
  }
  std::int64_t bytes(const Layout& l) const { return exact(l, 0).arena_bytes; }
  ExactMemory exact(const Layout& l, std::int64_t budget) const {
    return exact_memory(config, place_of(ranks), l, model, budget, 0);
  }
};

// Those that are close by their estimates first, in the order of what their programs take.
void expect_in_order(const Grid& grid, const LayoutChoice& choice, std::int64_t budget) {
  double last = 0, last_simulated = 0;
  for (const RankedLayout& r : choice.best) {
    SCOPED_TRACE(to_text(r.layout));
    if (!r.simulated_s) {
      EXPECT_GE(r.estimate.step_s, last);
      last = r.estimate.step_s;
      continue;
    }
    EXPECT_EQ(last, 0) << "behind one that was not simulated";
    EXPECT_GE(*r.simulated_s, last_simulated);
    last_simulated = *r.simulated_s;
    Config with = grid.config;
    use_layout(with, r.layout);
    check_for_ranks(with, grid.ranks);
    const ProgramOptions o =
        choose_programs(with, place_of(grid.ranks), Purpose::Train, budget, 0, kNoHostLimit, &grid.model);
    EXPECT_EQ(*r.simulated_s, predict_step(rank_roles(o), {grid.cluster, &grid.model}).step_s);
  }
}

TEST(LayoutChoice, IsTheBestOfTheWholeGrid) {
  for (const int ranks : {2, 4, 8}) {
    Grid grid(small_config({"memory.recompute=none"}), ranks);
    ASSERT_GT(grid.layouts.size(), 20U);
    std::vector<std::int64_t> bytes;
    for (const Layout& l : grid.layouts) bytes.push_back(grid.bytes(l));
    std::vector<std::int64_t> sorted = bytes;
    std::sort(sorted.begin(), sorted.end());
    for (const std::size_t part : {20U, 4U, 2U, 1U}) {  // a twentieth of the grid fits …, and all of it
      const std::int64_t budget = sorted[(sorted.size() - 1) / part];
      double best = 1e9;
      for (std::size_t i = 0; i < bytes.size(); ++i) {
        if (bytes[i] <= budget) best = std::min(best, grid.costs.estimate(grid.layouts[i]).step_s);
      }
      Config config = grid.config;
      const auto choice = choose_layout(config, place_of(ranks), {grid.cluster, &grid.model}, budget, 0);
      ASSERT_TRUE(choice && !choice->best.empty()) << ranks << " ranks, budget " << budget;
      EXPECT_DOUBLE_EQ(choice->least_estimate().estimate.step_s, best) << ranks << " ranks, budget " << budget;
      EXPECT_LE(choice->best.front().exact->arena_bytes, budget);
      expect_in_order(grid, *choice, budget);
      // The configuration says it, and its plan has the bytes that were promised.
      EXPECT_FALSE(config.parallel.automatic);
      check_for_ranks(config, ranks);
      const ProgramOptions o = choose_programs(config, place_of(ranks), Purpose::Train, budget, 0);
      EXPECT_EQ(layout_of(o), choice->best.front().layout);
    }
  }
}

// What does not fit as it is may fit with recomputation, which then counts in its time.
TEST(LayoutChoice, IsTheBestOfTheWholeGridWithRecomputation) {
  int recomputed = 0;
  for (const int ranks : {1, 4}) {
    Grid grid(small_config({"train.global_batch=4", "data.sequence=64"}), ranks);
    std::vector<std::int64_t> sorted;
    for (const Layout& l : grid.layouts) sorted.push_back(grid.bytes(l));
    std::sort(sorted.begin(), sorted.end());
    for (const double part : {0.97, 1.1, 1.3}) {  // of the least that a layout needs with everything kept
      const auto budget = static_cast<std::int64_t>(part * static_cast<double>(sorted.front()));
      double best = 1e9;
      for (const Layout& l : grid.layouts) {
        const ExactMemory exact = grid.exact(l, budget);
        if (exact.arena_bytes <= budget) best = std::min(best, grid.costs.estimate(l).step_s + exact.recompute_s);
      }
      Config config = grid.config;
      const auto choice = choose_layout(config, place_of(ranks), {grid.cluster, &grid.model}, budget, 0);
      ASSERT_TRUE(choice && !choice->best.empty()) << ranks << " ranks, budget " << budget;
      EXPECT_DOUBLE_EQ(choice->least_estimate().estimate.step_s, best) << ranks << " ranks, budget " << budget;
      expect_in_order(grid, *choice, budget);
      const RankedLayout& first = choice->best.front();
      EXPECT_LE(first.exact->arena_bytes, budget);
      recomputed += first.estimate.recompute_s > 0 ? 1 : 0;
      const DescribedCosts costs(grid.cluster);
      const ProgramOptions o =
          choose_programs(config, place_of(ranks), Purpose::Train, budget, 0, kNoHostLimit, &costs);
      EXPECT_EQ(o.recompute.empty(), first.estimate.recompute_s == 0);
    }
  }
  EXPECT_GT(recomputed, 1);
}

// Where no layout fits without them, the one that needs least may have them.
TEST(LayoutChoice, RowSplitsAreTheLastResort) {
  const Config config = small_config({"train.global_batch=4", "data.sequence=64", "model.ffn=512"});
  Config whole = config;
  whole.memory.row_splits = false;
  choose_layout(whole, place_of(2), slow_machine(), 1000, 0);
  const std::int64_t budget = planned_bytes(choose_programs(whole, place_of(2), Purpose::Train, 1000, 0)) - 1;
  Config chosen = config;
  const auto choice = choose_layout(chosen, place_of(2), slow_machine(), budget, 0);
  ASSERT_TRUE(choice);
  EXPECT_TRUE(choice->best.empty());
  const ProgramOptions o = choose_programs(chosen, place_of(2), Purpose::Train, budget, 0);
  EXPECT_TRUE(has_row_splits(o.recompute));
  EXPECT_LE(planned_bytes(o), budget);
}

TEST(LayoutChoice, BoundsAreBelowThePlanAndTheEstimate) {
  int checked = 0;
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    const RandomStream random(seed, "layouts");
    const auto pick = [&](std::uint64_t i, std::int64_t n) {
      return static_cast<std::int64_t>(random.uniform(i) * static_cast<double>(n));
    };
    Config config = small_config(
        {fmt::format("model.layers={}", 2 + pick(0, 5)), fmt::format("model.ffn={}", 16 * (1 + pick(1, 5))),
         fmt::format("model.vocabulary={}", 50 + pick(2, 900)), fmt::format("data.sequence={}", 4 << pick(3, 5)),
         fmt::format("model.tied={}", pick(4, 2) == 0), fmt::format("train.global_batch={}", 8 << pick(5, 2)),
         fmt::format("model.dropout={}", pick(6, 2) == 0 ? 0.0 : 0.1),
         fmt::format("optimizer.name={}", pick(7, 3) == 0 ? "sgd" : "adamw"),
         fmt::format("memory.recompute={}", std::array{"none", "full", "selective", "auto",
                                                       "offload"}[static_cast<std::size_t>(pick(11, 5))])});
    if (pick(12, 4) == 0) {
      config.memory.recompute_layers.assign(static_cast<std::size_t>(config.model.layers), {});
      config.memory.recompute_layers.back().mode = pick(13, 2) == 0 ? RecomputeMode::Full : RecomputeMode::Offload;
    }
    if (pick(8, 2) == 0) {
      config.model.family = ModelFamily::Gpt2;
      config.model.kv_heads = config.model.heads;
    }
    Grid grid(config, static_cast<int>(1 << pick(9, 4)));
    for (std::size_t i = static_cast<std::size_t>(pick(10, 5)); i < grid.layouts.size();
         i += 1 + grid.layouts.size() / 8) {
      const Layout& l = grid.layouts[i];
      EXPECT_LE(grid.costs.memory_bound_bytes(l), grid.bytes(l)) << to_text(l) << ", seed " << seed;
      EXPECT_LE(grid.costs.time_bound_s(l), grid.costs.estimate(l).step_s * (1 + 1e-12))
          << to_text(l) << ", seed " << seed;
      ++checked;
    }
  }
  EXPECT_GT(checked, 50);
}

// Before anything is planned, a layout is known to recompute for so long at least.
TEST(LayoutChoice, RecomputationIsBoundedFromBelow) {
  int positive = 0;
  for (const int ranks : {1, 4}) {
    const Grid grid(small_config({"train.global_batch=8", "data.sequence=64"}), ranks);
    std::vector<std::int64_t> sorted;
    for (const Layout& l : grid.layouts) sorted.push_back(grid.bytes(l));
    std::sort(sorted.begin(), sorted.end());
    for (const double part : {0.9, 1.3}) {  // of the least that a layout needs with everything kept
      const auto budget = static_cast<std::int64_t>(part * static_cast<double>(sorted.front()));
      LayoutCosts costs(layout_problem(grid.config, ranks, budget), {grid.cluster, &grid.model});
      for (const Layout& l : grid.layouts) {
        const ExactMemory exact = grid.exact(l, budget);
        if (exact.arena_bytes > budget) continue;
        const LayoutEstimate estimate = costs.estimate(l);
        EXPECT_LE(estimate.recompute_s, exact.recompute_s * (1 + 1e-9)) << to_text(l) << ", budget " << budget;
        EXPECT_LE(costs.time_bound_s(l), estimate.step_s * (1 + 1e-12)) << to_text(l);
        positive += estimate.recompute_s > 0.2 * exact.recompute_s ? 1 : 0;
      }
    }
  }
  EXPECT_GT(positive, 3);
}

TEST(LayoutChoice, TheBoundIsNearThePlan) {
  Grid grid(small_config({"model.hidden=128", "model.ffn=512", "model.vocabulary=500"}), 1);
  for (const Layout& l : grid.layouts) EXPECT_GT(2 * grid.costs.memory_bound_bytes(l), grid.bytes(l)) << to_text(l);
}

TEST(LayoutChoice, WhatTheWordsOfAConfigurationFixStaysFixed) {
  Grid given(small_config({"train.micro_batch=2", "comm.bucket=1MiB"}), 4);
  ASSERT_FALSE(given.layouts.empty());
  for (const Layout& l : given.layouts) EXPECT_EQ(l.micro_batch, 2);
  EXPECT_TRUE(std::any_of(given.layouts.begin(), given.layouts.end(), [](const Layout& l) { return l.zero > 0; }))
      << "comm.bucket is for all stages of ZeRO";
  Config config =
      small_config({"train.global_batch=7", "model.layers=1", "model.heads=5", "model.kv_heads=5", "model.hidden=30"});
  try {
    choose_layout(config, place_of(4), slow_machine(), 0, 0);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::Config);
    EXPECT_NE(std::string(e.what()).find("no layout of 4 ranks can run this model and batch"), std::string::npos)
        << e.what();
  }
}

TEST(LayoutChoice, NothingFits) {
  Config config = small_config();
  const auto choice = choose_layout(config, place_of(4), slow_machine(), 1000, 0);
  ASSERT_TRUE(choice && choice->best.empty() && choice->least_memory);
  EXPECT_GT(choice->fallen.at("memory"), 0);
  std::int64_t fallen = 0;
  for (const auto& [reason, count] : choice->fallen) fallen += count;
  EXPECT_EQ(fallen, choice->tried);
  const ProgramOptions o = choose_programs(config, place_of(4), Purpose::Train, 1000, 0);
  const auto no = check_budget(build_programs(o), o, 1000, 0);
  ASSERT_TRUE(no);
  EXPECT_NE(no->text.find("largest at the peak"), std::string::npos);
  EXPECT_EQ(choice->least_memory->exact->arena_bytes, no->needed_bytes);
  EXPECT_NE(layout_text(*choice, slow_cluster(), 1000, true).find("none fits; least memory: an arena of "),
            std::string::npos);
}

TEST(LayoutChoice, ParallelAutoIsWrittenAsTheWord) {
  const Config config = small_config();
  EXPECT_TRUE(config.parallel.automatic);
  const std::string text = dump_config(config, {{"parallel", "{data: 4}"}});
  EXPECT_NE(text.find("\nparallel: auto  # {data: 4}\n"), std::string::npos) << text;
  EXPECT_TRUE(same_values(parse_config(text, "again"), config));
  // What plan.json keeps.
  Config chosen = config;
  choose_layout(chosen, place_of(8), slow_machine(), 0, 0);
  EXPECT_EQ(read_parallel_line(parallel_line(chosen.parallel), "plan.json"), chosen.parallel);
  EXPECT_THROW(read_parallel_line("{tensor: many}", "plan.json"), Error);
}

TEST(LayoutChoice, PlanListsTheBestAndRefusesWhatNothingFits) {
  const test::TempFolder folder;
  const std::string path = (folder / "run.yaml").string();
  std::ofstream(path) << dump_config(small_config({"memory.reserve=1MiB"}));
  PlanArguments plan;
  plan.ranks = 4;
  plan.why = true;
  testing::internal::CaptureStdout();
  EXPECT_EQ(command_plan({path, {}}, plan, false), 0);
  const std::string text = testing::internal::GetCapturedStdout();
  EXPECT_NE(text.find("layouts on cpu core"), std::string::npos) << text;
  for (const char* words : {"slower than the best 5: ", "MFU, bubble and exposed are estimates of the search",
                            ", all by simulation; schedule "})
    EXPECT_NE(text.find(words), std::string::npos) << words << " in\n" << text;
  plan.budget = "1100KiB";
  testing::internal::CaptureStdout();
  try {
    command_plan({path, {}}, plan, false);
    ADD_FAILURE() << "it fits";
  } catch (const Error& e) {
    EXPECT_EQ(static_cast<int>(e.kind()), 71) << e.what();
    EXPECT_NE(std::string(e.what()).find("nearest changes"), std::string::npos) << e.what();
  }
  EXPECT_NE(testing::internal::GetCapturedStdout().find("none fits; least memory: an arena of "), std::string::npos);
  // A cluster that is named says what a device has; an explicit layout is predicted too.
  plan.budget.clear();
  plan.cluster = PLIMSOLL_SOURCE_DIR "/configs/clusters/h100.yaml";
  testing::internal::CaptureStdout();
  EXPECT_EQ(command_plan({path, {"parallel={tensor: 2}"}}, plan, true), 0);
  const std::string json = testing::internal::GetCapturedStdout();
  EXPECT_NE(json.find("\"layout\": \"data 2 x pipeline 1 x tensor 2 + sequence, zero 0"), std::string::npos) << json;
}

// Where links are known, they order the layouts that were planned: with the usual sizes another one would be first.
TEST(LayoutChoice, CountsWhatSizesOfMessagesSave) {
  const test::TempFolder folder;
  const std::string path = (folder / "cluster.yaml").string();
  int saving = 0, reordered = 0;
  for (const double latency : {1e-5, 1e-4}) {
    for (const double rate : {1e9, 1e8}) {
      for (const int batch : {16, 64}) {
        ClusterDescription slow = slow_cluster();
        slow.devices_per_node = batch == 16 ? 1 : 4;
        slow.inside = {latency / 10, rate * 10};
        slow.between = {latency, rate};
        std::ofstream(path) << write_cluster(slow, "");
        Config config = small_config(
            {"comm.cluster=" + path, "memory.recompute=none", fmt::format("train.global_batch={}", batch)});
        const DescribedCosts costs(choose_cluster(config));
        const auto choice = choose_layout(config, place_of(8), {costs.cluster(), &costs}, 0, 0);
        ASSERT_TRUE(choice);
        double least_usual = 1e9;
        for (const RankedLayout& r : choice->best) {
          EXPECT_EQ(r.estimate.sizes_s, std::min(r.exact->sizes_s, r.estimate.hideable_s));
          EXPECT_LE(r.estimate.sizes_s, r.estimate.exposed_s * (1 + 1e-9));
          saving += r.estimate.sizes_s > 0 ? 1 : 0;
          least_usual = std::min(least_usual, r.estimate.step_s + r.estimate.sizes_s);
        }
        const LayoutEstimate& first = choice->least_estimate().estimate;
        reordered += first.step_s + first.sizes_s > least_usual * (1 + 1e-9) ? 1 : 0;
      }
    }
  }
  EXPECT_GT(saving, 5);
  EXPECT_GT(reordered, 0);
}

TEST(LayoutChoice, TheSameForEveryRank) {
  Config first = small_config(), other = small_config();
  choose_layout(first, {0, 8, 0, 8}, slow_machine(), 3 << 20, 0);
  choose_layout(other, {5, 8, 1, 2}, slow_machine(), 3 << 20, 0);
  EXPECT_TRUE(same_values(first, other));
}

}  // namespace
}  // namespace plimsoll
