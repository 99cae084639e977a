// parallel.state_shares: who gets which part of the state, under budgets that differ.

#include "launch/state_choice.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <numeric>

#include "launch/plan_file.hpp"
#include "launch/plan_report.hpp"
#include "launch/run_setup.hpp"
#include "runtime/checkpoint/file.hpp"
#include "tests/launch/tiny_run.hpp"

namespace plimsoll {
namespace {

using namespace test;

using Counts = std::vector<std::int64_t>;

Config config_of(const std::string& parallel, int ranks, const std::string& recompute = "none") {
  Config config = parse_config(
      "data: {train: d, sequence: 16}\nmodel: {layers: 4, hidden: 48, heads: 4, vocabulary: 509, positions: 16}\n"
      "train: {global_batch: 12, micro_batch: 1}\nrun: {threads: 1}\nparallel: " +
          parallel + "\nmemory: {recompute: " + recompute + "}\n",
      "f");
  check_for_ranks(config, ranks);
  return config;
}

ProgramOptions choose(const Config& config, int ranks, const RankBudgets& budgets) {
  return choose_programs(config, {0, ranks, 0, ranks}, Purpose::Train, budgets, 0);
}

std::int64_t even_bytes(Config config, int ranks) {
  config.parallel.auto_state_shares = false;
  config.parallel.state_shares.clear();
  return largest_role(rank_roles(choose(config, ranks, 0))).programs.plan.total_bytes;
}

double share_of(const Counts& shares, std::size_t rank) {
  return static_cast<double>(shares[rank]) /
         static_cast<double>(std::accumulate(shares.begin(), shares.end(), std::int64_t{0}));
}

TEST(RankBudgets, OfRanksPlacesAndAll) {
  const RankBudgets all = 7;
  EXPECT_EQ(all.of(3), 7);
  EXPECT_FALSE(all.differ());
  EXPECT_EQ(all.by_shard({.data = 4, .shards = 2}), (Counts{7, 7}));
  const RankBudgets budgets(Counts{9, 5, 8, 6, 7, 7, 3, 9});
  EXPECT_EQ(budgets.least(), 3);
  EXPECT_EQ(budgets.of(2), 8);
  EXPECT_EQ(budgets.least_of({1, 2, 7}), 5);
  EXPECT_TRUE(budgets.differ());
  EXPECT_EQ(budgets.by_shard({.data = 4, .pipeline = 2, .shards = 2}), (Counts{3, 5}));
  EXPECT_EQ(budgets.by_shard({.data = 4, .tensor = 2, .shards = 4}), (Counts{5, 6, 7, 3}));
}

// Where nobody has more than the others, nothing is chosen and no size is another.
TEST(StateChoice, EqualBudgetsStayEven) {
  for (const int zero : {1, 2, 3}) {
    const Config config = config_of(fmt::format("{{zero: {}, state_shares: auto}}", zero), 3);
    const std::int64_t even = even_bytes(config, 3);
    for (const RankBudgets& budgets : {RankBudgets(0), RankBudgets(even), RankBudgets(Counts{even, even, even}),
                                       RankBudgets(Counts{even + 100, even, even + 50}), RankBudgets(1)}) {
      const ProgramOptions o = choose(config, 3, budgets);
      EXPECT_TRUE(o.state_shares.empty()) << budgets.least();
      EXPECT_EQ(rank_roles(o).size(), 1U);
    }
  }
}

// What is free on each rank is what its budget leaves beside everything that is not divided.
TEST(StateChoice, SharesFollowTheFreeMemory) {
  const Config config = config_of("{zero: 1, state_shares: auto}", 2);
  const ProgramOptions even = choose(config, 2, 0);
  const DividedState state = divided_state(even);
  EXPECT_EQ(state.bytes_per_element, 8) << "two moments";
  const std::int64_t rest = even_bytes(config, 2) - state.bytes / 2 + state.uneven_bytes;
  for (const double first : {0.3, 0.5, 0.9, 3.0}) {
    const auto part = static_cast<double>(state.bytes);
    const RankBudgets budgets(
        Counts{rest + static_cast<std::int64_t>(first * part), rest + static_cast<std::int64_t>(0.9 * part)});
    const ProgramOptions o = choose(config, 2, budgets);
    EXPECT_EQ(check_budget(rank_roles(o), budgets, 0), std::nullopt);
    if (first == 0.9) {
      EXPECT_TRUE(o.state_shares.empty());
      continue;
    }
    ASSERT_EQ(o.state_shares.size(), 2U);
    EXPECT_EQ(std::accumulate(o.state_shares.begin(), o.state_shares.end(), std::int64_t{0}), state.bytes / 8);
    EXPECT_NEAR(share_of(o.state_shares, 0), first / (first + 0.9), 0.01);
  }
}

// A rank without room for its equal share; of the others together, all the room that is needed, or a little less.
TEST(StateChoice, FitsWhereTheRoomOfAllRanksSuffices) {
  for (const auto& [parallel, ranks] : {std::pair{"{zero: 1, state_shares: auto}", 3},
                                        {"{zero: 2, state_shares: auto}", 2},
                                        {"{zero: 3, state_shares: auto}", 4},
                                        {"{zero: 3, shard: 2, state_shares: auto}", 4},
                                        {"{zero: 1, tensor: 2, state_shares: auto}", 4},
                                        {"{zero: 1, pipeline: 2, state_shares: auto}", 4},
                                        {"{zero: 3, pipeline: 2, state_shares: auto}", 4}}) {
    SCOPED_TRACE(parallel);
    const Config config = config_of(parallel, ranks);
    const ProgramOptions even = choose(config, ranks, 0);
    const std::int64_t needed = even_bytes(config, ranks);
    std::int64_t equal = 0, uneven = 0;
    for (const int stage : distinct_stages(even)) {
      const DividedState state = divided_state(at_stage(even, stage));
      equal = std::max(equal, state.bytes / even.mesh.shards);
      uneven = std::max(uneven, state.uneven_bytes);
    }
    const std::int64_t missing = equal / 3;
    Counts by_rank;
    for (int rank = 0; rank < ranks; ++rank) {
      const bool poor = coordinates(even.mesh, rank).data % even.mesh.shards == 1;
      // In a pipeline the stage with most to divide is not the one that needs most beside it.
      by_rank.push_back(poor ? needed - missing
                             : needed + (even.mesh.pipeline > 1 ? equal : 0) + missing + 2 * uneven + 4096);
    }
    const RankBudgets budgets(by_rank);
    EXPECT_NE(check_budget(rank_roles(even), budgets, 0), std::nullopt);
    const ProgramOptions o = choose(config, ranks, budgets);
    const std::vector<RankRole> roles = rank_roles(o);
    const auto no = check_budget(roles, budgets, 0);
    EXPECT_EQ(no, std::nullopt) << (no ? no->text : "");
    EXPECT_EQ(roles.size(), static_cast<std::size_t>(even.mesh.shards * even.mesh.pipeline));
    for (int rank = 0; rank < ranks; ++rank) {
      ProgramOptions mine = o;
      mine.rank = rank;
      EXPECT_EQ(build_programs(mine).plan.total_bytes, role_of(roles, rank).programs.plan.total_bytes);
    }
    // What is still too little is said of the rank that has it.
    Counts less(by_rank.size(), needed - missing);
    const auto refused = check_budget(rank_roles(choose(config, ranks, RankBudgets(less))), RankBudgets(less), 0);
    EXPECT_NE(refused, std::nullopt);
  }
}

// The plan that is too large for a rank with a small budget is planned smaller, if that is left to the planner.
TEST(StateChoice, SizesAreChosenForTheRoomOfAllRanks) {
  Config config = config_of("{zero: 1, state_shares: auto}", 2, "auto");
  config.train.micro_batch.reset();
  const std::int64_t equal = divided_state(choose(config, 2, 0)).bytes / 2, most = even_bytes(config, 2);
  Config even = config;
  even.parallel.auto_state_shares = false;
  const RankBudgets budgets(Counts{most + 2 * equal, most - equal / 2});
  const ProgramOptions with = choose(config, 2, budgets), without = choose(even, 2, budgets);
  EXPECT_EQ(with.micro_batch, choose(config, 2, 0).micro_batch);
  EXPECT_TRUE(with.recompute.empty());
  EXPECT_TRUE(without.micro_batch < with.micro_batch || !without.recompute.empty());
  EXPECT_EQ(check_budget(rank_roles(with), budgets, 0), std::nullopt);
}

TEST(StateChoice, AListIsKeptAndItsBudgetNamed) {
  const Config config = config_of("{zero: 3, state_shares: [1, 3]}", 2);
  const ProgramOptions o = choose(config, 2, 0);
  EXPECT_EQ(o.state_shares, (Counts{1, 3}));
  const std::vector<RankRole> roles = rank_roles(o);
  ASSERT_EQ(roles.size(), 2U);
  EXPECT_EQ(roles[0].name, "shard 0");
  EXPECT_LT(roles[0].programs.plan.total_bytes, roles[1].programs.plan.total_bytes);
  const std::int64_t first = roles[0].programs.plan.total_bytes, second = roles[1].programs.plan.total_bytes;
  EXPECT_EQ(check_budget(roles, RankBudgets(Counts{first, second}), 0), std::nullopt);
  const auto no = check_budget(roles, RankBudgets(Counts{first - 1, second}), 0);
  ASSERT_TRUE(no.has_value());
  EXPECT_EQ(no->needed_bytes, first);
  EXPECT_TRUE(no->text.starts_with("shard 0 (rank 0): the run needs ")) << no->text;
  const std::string text = plan_text(roles, {RankBudgets(Counts{first, second}), 0, "", 2}, nullptr);
  EXPECT_NE(text.find("state in parts of 25 % 75 %"), std::string::npos) << text;
  const auto json = plan_json(roles, {RankBudgets(Counts{first, second}), 0, "", 2});
  EXPECT_EQ(json.at("state_shares").get<Counts>(), (Counts{1, 3}));
  EXPECT_EQ(json.at("roles").at(0).at("budget_bytes"), first);
  EXPECT_EQ(json.at("roles").at(1).at("budget_bytes"), second);
}

TEST(StateChoice, ARankWithAnotherBudgetIsNamedWhereAllPlansAreAlike) {
  const Config config = config_of("{zero: 1}", 3);
  const std::vector<RankRole> roles = rank_roles(choose(config, 3, 0));
  const std::int64_t needed = roles.front().programs.plan.total_bytes;
  const auto no = check_budget(roles, RankBudgets(Counts{needed, needed + 9, needed - 1}), 0);
  ASSERT_TRUE(no.has_value());
  EXPECT_TRUE(no->text.starts_with("all ranks (rank 2): ")) << no->text;
}

// A run goes on with the shares of its plan, even ones too, whatever is free now.
TEST(StateChoice, AResumedRunKeepsThoseOfItsPlan) {
  const TempFolder folder;
  std::filesystem::create_directories(folder / "run/checkpoints");
  for (const Counts& shares : {Counts{5, 2}, Counts{}}) {
    Config config = config_of("{zero: 1, state_shares: auto}", 2);
    config.run.dir = (folder / "run").string();
    ProgramOptions o = choose(config, 2, 0);
    o.state_shares = shares;
    replace_file(folder / "run/plan.json", plan_json(rank_roles(o), {0, 0, "", 2}).dump());
    const auto kept = [&](Config given, int ranks) {
      keep_plan_choices(given, ranks);
      return std::pair(given.parallel.auto_state_shares, given.parallel.state_shares);
    };
    EXPECT_EQ(kept(config, 2), std::pair(false, shares));
    EXPECT_EQ(kept(config, 4), std::pair(true, Counts{})) << "other ranks";
    Config other = config;
    other.parallel.zero = 3;
    EXPECT_EQ(kept(other, 2), std::pair(true, Counts{})) << "other state";
    other = config;
    other.parallel.auto_state_shares = false;
    other.parallel.state_shares = {1, 1};
    EXPECT_EQ(kept(other, 2), std::pair(false, Counts{1, 1}));
  }
}

}  // namespace
}  // namespace plimsoll
