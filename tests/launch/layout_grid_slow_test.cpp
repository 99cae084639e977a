// `parallel: auto` on four and eight ranks, against every layout that it may choose: each of them is run, with a thread
// for each rank, and keeps to its plan to the byte; the choice is the best of them under the simulator of the
// step. (What they take cannot be measured on a machine with fewer cores than ranks; two ranks are, by scripts/bench.sh
// --layouts.)

#include <gtest/gtest.h>

#include <algorithm>

#include "launch/layout_choice.hpp"
#include "launch/roles.hpp"
#include "launch/run_costs.hpp"
#include "launch/step_times.hpp"
#include "tests/support/planned_run.hpp"

namespace plimsoll {
namespace {

using namespace test;

struct Grid {
  std::string name;
  int ranks;
  ClusterDescription cluster;
  std::string model;  // and data and batch
};

constexpr const char* kTiny =
    "model: {family: llama, layers: 8, hidden: 32, heads: 8, kv_heads: 4, ffn: 64, vocabulary: 61, positions: 32}\n"
    "data: {train: none, sequence: 16, validation: 0}\n"
    "train: {global_batch: 16}\n";
// That of scripts/bench_layouts.py.
constexpr const char* kSmall =
    "model: {family: gpt2, layers: 6, hidden: 384, heads: 6, vocabulary: 8192, positions: 256}\n"
    "data: {train: none, sequence: 256, validation: 0}\n"
    "train: {global_batch: 16}\n";

// Slow links make every axis worth something.
ClusterDescription slow_cluster() {
  ClusterDescription c;
  c.devices_per_node = 4;
  c.inside = {5e-6, 1e9};
  c.between = {20e-6, 1e8};
  return c;
}

class LayoutGrid : public testing::TestWithParam<Grid> {
 protected:
  Config config() const {
    return parse_config(GetParam().model + "parallel: auto\n", "grid",
                        std::vector<std::string>{"run.threads=1", "memory.recompute=none"});
  }
  Place place() const { return {0, GetParam().ranks, 0, GetParam().ranks}; }
  const DescribedCosts costs_{GetParam().cluster};
  const LayoutMachine machine_{costs_.cluster(), &costs_};

  std::vector<Layout> layouts() const {
    LayoutCosts costs(layout_problem(config(), GetParam().ranks, 0), machine_);
    LayoutChoice fallen;
    return enumerate_layouts(costs, costs_.cluster(), fallen);
  }
  ProgramOptions programs(const Layout& layout) const {
    Config with = config();
    use_layout(with, layout);
    check_for_ranks(with, GetParam().ranks);
    return choose_programs(with, place(), Purpose::Train, 0, 0, kNoHostLimit, &costs_);
  }
};

class LayoutGridRuns : public LayoutGrid {};
TEST_P(LayoutGridRuns, EveryLayoutRunsAsPredicted) {
  const std::vector<Layout> all = layouts();
  ASSERT_GT(all.size(), 50U);
  for (const Layout& layout : all) {
    SCOPED_TRACE(to_text(layout));
    const PlannedRun run = run_as_planned(programs(layout), config().train.global_batch, 2);
    expect_as_planned(run);
    const ExactMemory predicted = exact_memory(config(), place(), layout, costs_, 0, 0);
    EXPECT_EQ(*std::max_element(run.high_water.begin(), run.high_water.end()), predicted.arena_bytes);
    if (HasFailure()) return;
  }
  std::printf("%s: %zu layouts on %d ranks ran as predicted\n", GetParam().name.c_str(), all.size(), GetParam().ranks);
}

// The search goes by an estimate of a step, whose messages beside compute are simpler than the simulator's; of the few
// with the least estimates the simulator chooses. That finds the first of them all.
TEST_P(LayoutGrid, TheChoiceIsTheBestUnderTheSimulator) {
  const auto simulated = [&](const Layout& layout) {
    return predict_step(rank_roles(programs(layout)), machine_).step_s;
  };
  std::vector<std::pair<double, Layout>> all;
  for (const Layout& layout : layouts()) all.emplace_back(simulated(layout), layout);
  const auto faster = [](const auto& a, const auto& b) { return a.first < b.first; };
  const auto best = std::min_element(all.begin(), all.end(), faster);
  Config chosen = config();
  const auto choice = choose_layout(chosen, place(), machine_, 0, 0);
  ASSERT_TRUE(choice && !choice->best.empty());
  const Layout& first = choice->best.front().layout;
  std::printf("%s: chosen %s, simulated %.4f ms; best of %zu: %s, %.4f ms\n", GetParam().name.c_str(),
              to_text(first).c_str(), 1e3 * simulated(first), all.size(), to_text(best->second).c_str(),
              1e3 * best->first);
  EXPECT_LE(simulated(first), best->first * (1 + 1e-9));
}

std::string name_of_grid(const testing::TestParamInfo<Grid>& c) { return c.param.name; }

INSTANTIATE_TEST_SUITE_P(Ranks, LayoutGridRuns,
                         testing::Values(Grid{"tiny_4", 4, ClusterDescription{}, kTiny},
                                         Grid{"tiny_8", 8, ClusterDescription{}, kTiny}),
                         name_of_grid);
INSTANTIATE_TEST_SUITE_P(
    Ranks, LayoutGrid,
    testing::Values(Grid{"tiny_4", 4, ClusterDescription{}, kTiny}, Grid{"tiny_8", 8, ClusterDescription{}, kTiny},
                    Grid{"tiny_slow_4", 4, slow_cluster(), kTiny}, Grid{"tiny_slow_8", 8, slow_cluster(), kTiny},
                    Grid{"small_4", 4, ClusterDescription{}, kSmall}, Grid{"small_8", 8, ClusterDescription{}, kSmall},
                    Grid{"small_slow_4", 4, slow_cluster(), kSmall}, Grid{"small_slow_8", 8, slow_cluster(), kSmall}),
    name_of_grid);

}  // namespace
}  // namespace plimsoll
