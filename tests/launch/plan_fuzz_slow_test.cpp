// Random small models on random meshes under random budgets: a run that keeps to its plan, or a bound that is true.
//
// Infeasible: a budget of exactly the bytes that are said to be needed has a plan, one byte less has none, and random
// lists of memory.recompute, which no planner chose, do not need less than what all are said to need. The plan of every
// role replays, its peak is within the budget, and a step of it is run, with a thread for each rank: what was
// touched is what was planned, to the byte.

#include <gtest/gtest.h>

#include "launch/layout_choice.hpp"
#include "launch/recompute_report.hpp"
#include "launch/roles.hpp"
#include "launch/run_costs.hpp"
#include "tests/launch/random_case.hpp"
#include "tests/support/planned_run.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr int kGroups = 16, kCasesPerGroup = 250;  // 4000 cases
constexpr std::int64_t kOutside = 4096;

struct Answer {
  std::vector<RankRole> roles;
  std::optional<Infeasible> no, no_host;
  bool fits() const { return !no && !no_host; }
};

const LayoutMachine& machine() {
  static const DescribedCosts costs(choose_cluster({}));
  static const LayoutMachine described{costs.cluster(), &costs};
  return described;
}

std::int64_t host_limit(const Case& c) { return c.config.memory.host_budget.value_or(kNoHostLimit); }

// As a run chooses.
Answer plan_with(const Case& c, const RankBudgets& budgets) {
  const Place place{0, c.ranks, 0, c.ranks};
  Config config = c.config;
  choose_layout(config, place, machine(), budgets.least(), kOutside);
  Answer answer{
      rank_roles(choose_programs(config, place, Purpose::Train, budgets, kOutside, host_limit(c), machine().costs)),
      {},
      {}};
  answer.no = check_budget(answer.roles, budgets, kOutside);
  answer.no_host = check_host_budget(answer.roles, host_limit(c));
  return answer;
}

void expect_a_run_as_planned(const Case& c, const Answer& answer, const RankBudgets& budgets) {
  for (const RankRole& role : answer.roles) {
    EXPECT_LE(role.programs.plan.total_bytes + kOutside, budgets.least_of(role.ranks)) << role.name;
    EXPECT_LE(role.programs.plan.host_bytes, host_limit(c)) << role.name;
    EXPECT_EQ(check_memory(role.programs.list(), role.programs.plan), std::nullopt) << role.name;
  }
  const PlannedRun run = run_as_planned(answer.roles.front().options, c.config.train.global_batch);
  expect_as_planned(run);
  for (std::size_t r = 0; r < run.planned.size(); ++r) {
    const MemoryPlan& plan = role_of(answer.roles, static_cast<int>(r)).programs.plan;
    EXPECT_EQ(run.planned[r], plan.total_bytes) << "rank " << r;
    EXPECT_EQ(run.host_planned[r], plan.host_bytes) << "rank " << r;
  }
}

// Of the programs that were planned, with other lists in place of what they recompute, some with blocks of rows.
void expect_no_list_below(Draw& draw, const ProgramOptions& planned, const Infeasible& no) {
  constexpr int kLists = 3;
  EXPECT_LE(no.bound_bytes, no.needed_bytes);
  for (int i = 0; i < kLists; ++i) {
    ProgramOptions with = planned;
    with.recompute.clear();
    with.recompute = random_layers(draw, with);
    const std::vector<LayerRecompute> whole = with.recompute;
    const std::int64_t rows = draw.of({1, 2, 4});
    for (LayerRecompute& layer : with.recompute) layer.rows = rows;
    for (int stage = 0; stage < with.mesh.pipeline; ++stage) {
      const ProgramOptions there = at_stage(with, stage);
      if (recompute_fault(keeping_graph(there).graph, there)) with.recompute = whole;
    }
    std::int64_t most = 0;
    for (const int stage : distinct_stages(with)) most = std::max(most, plan_of(at_stage(with, stage)).total_bytes);
    EXPECT_GE(most + kOutside, no.bound_bytes) << recompute_line(with.recompute);
  }
}

// Of the arena, whatever there is of host memory; where that is what lacks, of host memory.
void expect_a_true_bound(const Case& c, const Answer& answer, std::int64_t budget) {
  const bool of_arena = answer.no.has_value();
  const auto lacks = [of_arena](const Answer& a) { return of_arena ? a.no : a.no_host; };
  const std::int64_t needed = lacks(answer)->needed_bytes;
  Case other = c;
  const auto with = [&](std::int64_t bytes) {
    if (!of_arena) other.config.memory.host_budget = bytes;
    return plan_with(other, of_arena ? bytes : budget);
  };
  EXPECT_GT(needed, of_arena ? budget : host_limit(c));
  const Answer exactly = with(needed);
  EXPECT_FALSE(lacks(exactly)) << "needs " << needed << " and does not fit into them";
  if (exactly.fits()) expect_a_run_as_planned(other, exactly, of_arena ? needed : budget);
  const std::optional<Infeasible> less = lacks(with(needed - 1));
  ASSERT_TRUE(less) << "said to need " << needed << ", fits into a byte less";
  EXPECT_EQ(less->needed_bytes, needed);
}

// Of what it would take without a budget, from too little to more than enough: what recomputes as it must gets less.
std::int64_t random_budget(Draw& draw, Case& c) {
  const Answer unlimited = plan_with(c, 0);
  const std::int64_t most = largest_role(unlimited.roles).programs.plan.total_bytes + kOutside;
  std::int64_t host = 0;
  for (const RankRole& role : unlimited.roles) host = std::max(host, role.programs.plan.host_bytes);
  if (host == 0) host = most / 4;
  const auto part_of = [&draw](double least, std::int64_t bytes) {
    return static_cast<std::int64_t>((least + draw.share()) * static_cast<double>(bytes));
  };
  if (draw.one_in(3)) c.config.memory.host_budget = part_of(0.8, host);
  return part_of(c.config.memory.recompute == RecomputeMode::Auto ? 0.4 : 0.8, most);
}

class PlanFuzz : public testing::TestWithParam<int> {
 protected:
  // body(draw, case) for `count` cases from `first` on, until one fails.
  void each_case(std::uint64_t first, int count, const std::function<bool(const Case&)>& wanted,
                 const std::function<void(Draw&, Case&)>& body) {
    for (std::uint64_t seed = first; count > 0 && !HasFailure(); ++seed) {
      Draw draw(static_cast<std::uint64_t>(GetParam()) * 1'000'000 + seed);
      std::optional<Case> c = random_case(draw);
      if (!c || !wanted(*c)) continue;
      --count;
      SCOPED_TRACE(fmt::format("group {}, seed {}, {} ranks:\n{}", GetParam(), seed, c->ranks, dump_config(c->config)));
      try {
        body(draw, *c);
      } catch (const std::exception& error) {
        ADD_FAILURE() << error.what();
      }
    }
  }
};

TEST_P(PlanFuzz, ARunAsPlannedOrATrueBound) {
  int infeasible = 0;
  std::map<std::string, int> ran;
  each_case(
      0, kCasesPerGroup, [](const Case&) { return true; },
      [&](Draw& draw, Case& c) {
        const std::int64_t budget = random_budget(draw, c);
        SCOPED_TRACE(fmt::format("budget {}, of host memory {}", budget, host_limit(c)));
        const Answer answer = plan_with(c, budget);
        const Place place{0, c.ranks, 0, c.ranks};  // what a run asks before it measures anything
        EXPECT_EQ(find_infeasible(c.config, place, Purpose::Train, budget, kOutside, host_limit(c)).has_value(),
                  !answer.fits());
        if (!answer.fits()) {
          ++infeasible;
          if (answer.no) expect_no_list_below(draw, answer.roles.front().options, *answer.no);
          return expect_a_true_bound(c, answer, budget);
        }
        expect_a_run_as_planned(c, answer, budget);
        for (const std::string& feature : features(c)) ++ran[feature];
      });
  if (HasFailure()) return;
  EXPECT_GT(infeasible, kCasesPerGroup / 20);
  EXPECT_LT(infeasible, kCasesPerGroup / 2);
  for (const char* feature : {"interleaved", "sequence parallel", "parallel: auto", "micro_batch: auto", "bf16", "fp8",
                              "host memory offered", "offload", "keep lists", "8 ranks"})
    EXPECT_GT(ran[feature], 0) << feature;
}

// With half of what ranks miss of what they need in the budgets of the others, or twice as much: a rank that has less
// is given less of the state, and whatever fits with equal parts fits.
TEST_P(PlanFuzz, UnevenBudgetsHoldWhateverFitsWithEqualParts) {
  constexpr int kUnevenCases = kCasesPerGroup / 5;
  int only_uneven = 0;
  const auto divided = [](const Case& c) {
    return c.config.parallel.zero.value_or(0) > 0 && choose_mesh(c.config, c.ranks).shards > 1;
  };
  each_case(500'000, kUnevenCases, divided, [&](Draw& draw, Case& c) {
    const Answer unlimited = plan_with(c, 0);
    const RankRole& role = largest_role(unlimited.roles);
    const Mesh mesh = role.options.mesh;
    const std::int64_t needed = role.programs.plan.total_bytes + kOutside;
    const auto part = static_cast<double>(divided_state(role.options).bytes) / mesh.shards;
    const auto missing = static_cast<std::int64_t>(draw.share() * part);
    const auto more = static_cast<std::int64_t>(draw.of({0.5, 2.0}) * static_cast<double>(missing));
    const auto poor = draw.to(mesh.shards);
    std::vector<std::int64_t> by_rank;
    for (int rank = 0; rank < c.ranks; ++rank)
      by_rank.push_back(needed + (coordinates(mesh, rank).data % mesh.shards == poor ? -missing : more));
    const RankBudgets budgets(by_rank);
    const bool fits_even = !plan_with(c, budgets).no;
    c.config.parallel.auto_state_shares = true;
    const Answer answer = plan_with(c, budgets);
    EXPECT_TRUE(!fits_even || !answer.no);
    if (!answer.no) expect_a_run_as_planned(c, answer, budgets);
    only_uneven += !fits_even && !answer.no ? 1 : 0;
  });
  if (HasFailure()) return;
  EXPECT_GT(only_uneven, kUnevenCases / 20);
}

INSTANTIATE_TEST_SUITE_P(Groups, PlanFuzz, testing::Range(0, kGroups));

}  // namespace
}  // namespace plimsoll
