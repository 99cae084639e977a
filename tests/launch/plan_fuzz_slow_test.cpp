// Random small models on random meshes under random budgets: a plan that holds, or a bound that is true.
//
// Infeasible: a budget of exactly the bytes that are said to be needed has a plan, one byte less has none. Otherwise
// the plan of every role replays, and its peak is within the budget. Some of the plans are run for a step, with a
// thread for each rank: what was touched is what was planned, to the byte.

#include <gtest/gtest.h>

#include "launch/roles.hpp"
#include "launch/run_setup.hpp"
#include "parallel/rules.hpp"
#include "tests/support/equivalence.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr int kGroups = 16, kCasesPerGroup = 140;  // 2240 cases
constexpr std::int64_t kOutside = 4096;

class Draw {
 public:
  explicit Draw(std::uint64_t seed) : random_(seed, "plan_fuzz") {}
  std::int64_t to(std::int64_t n) {  // 0 … n - 1
    return std::min(n - 1, static_cast<std::int64_t>(random_.uniform(next_++) * static_cast<double>(n)));
  }
  template <class T>
  T of(std::initializer_list<T> all) {
    return all.begin()[to(std::ssize(all))];
  }
  double share() { return random_.uniform(next_++); }

 private:
  RandomStream random_;
  std::uint64_t next_ = 0;
};

struct Case {
  Config config;
  int ranks = 1;
};

ModelConfig random_model(Draw& draw) {
  ModelConfig m = family_defaults(draw.of({ModelFamily::Gpt2, ModelFamily::Llama}));
  m.layers = 1 + draw.to(6);
  m.heads = draw.of({2, 4, 6});
  m.hidden = m.heads * draw.of({4, 6, 8});
  if (m.family == ModelFamily::Llama) {
    m.kv_heads = draw.to(2) == 0 ? m.heads : 2;
    m.ffn = 8 * (2 + draw.to(9));
    m.tied = draw.to(2) == 0;
  }
  m.vocabulary = 20 + draw.to(400);
  m.positions = 64;
  m.dropout = draw.to(3) == 0 ? 0.1 : 0;
  return resolve(m);
}

// nullopt: a combination that is not allowed.
std::optional<Case> random_case(Draw& draw) {
  Case c;
  Config& config = c.config;
  config.model = random_model(draw);
  config.data.sequence = 2 * (2 + draw.to(15));
  config.data.validation = draw.to(3) == 0 ? 0.1 : 0;
  config.run.threads = 1;
  config.optimizer.name = draw.to(4) == 0 ? OptimizerName::Sgd : OptimizerName::AdamW;
  ParallelConfig& p = config.parallel;
  p.pipeline = draw.of({1, 1, 2, 3});
  p.tensor = draw.of({1, 1, 2});
  p.data = draw.of({1, 1, 2, 4});
  p.zero = draw.to(4);
  p.sequence = p.tensor > 1 && draw.to(2) == 0;
  p.schedule = draw.of({PipelineSchedule::GPipe, PipelineSchedule::OneFOneB, PipelineSchedule::ZbH1});
  c.ranks = static_cast<int>(p.pipeline * p.tensor * *p.data);
  config.train.global_batch = *p.data * draw.of({1, 2, 4, 8});
  if (draw.to(3) == 0) config.train.micro_batch = 1;
  if (draw.to(3) == 0) config.memory.logits = 1 << (8 + draw.to(6));
  using enum RecomputeMode;
  config.memory.recompute = draw.of({None, Full, Selective, Auto});
  if (!rank_issues(p, c.ranks, config.train.global_batch, config.train.micro_batch).empty()) return std::nullopt;
  if (!layout_issues(p, config.model, config.data.sequence).empty()) return std::nullopt;
  check_for_ranks(config, c.ranks);
  return c;
}

struct Answer {
  std::vector<RankRole> roles;
  std::optional<Infeasible> no;
};

Answer plan_with(const Case& c, const RankBudgets& budgets) {
  const Place place{0, c.ranks, 0, c.ranks};
  Answer answer{rank_roles(choose_programs(c.config, place, Purpose::Train, budgets, kOutside)), {}};
  answer.no = check_budget(answer.roles, budgets, kOutside);
  return answer;
}

void expect_a_true_bound(const Case& c, const Infeasible& no, std::int64_t budget) {
  EXPECT_GT(no.needed_bytes, budget);
  const Answer exactly = plan_with(c, no.needed_bytes), less = plan_with(c, no.needed_bytes - 1);
  EXPECT_FALSE(exactly.no) << "needs " << no.needed_bytes << " and does not fit into them";
  ASSERT_TRUE(less.no) << "said to need " << no.needed_bytes << ", fits into a byte less";
  EXPECT_EQ(less.no->needed_bytes, no.needed_bytes);
}

void expect_a_plan_that_holds(const Answer& answer, const RankBudgets& budgets) {
  for (const RankRole& role : answer.roles) {
    EXPECT_LE(role.programs.plan.total_bytes + kOutside, budgets.least_of(role.ranks)) << role.name;
    EXPECT_EQ(check_memory(role.programs.list(), role.programs.plan), std::nullopt) << role.name;
  }
}

void expect_a_run_as_planned(const Case& c, const Answer& answer) {
  const ProgramOptions& o = answer.roles.front().options;
  const test::Layout layout{.mesh = o.mesh,
                            .zero = o.zero,
                            .sequence = o.sequence_parallel,
                            .schedule = o.schedule,
                            .chunks = o.chunks,
                            .stages = o.stage_layers,
                            .tensor_chunks = o.tensor_chunks,
                            .state_shares = o.state_shares};
  const RunResult run = train_on(layout, o, c.config.train.global_batch, 1);
  EXPECT_EQ(run.high_water, run.planned);
  for (std::size_t r = 0; r < run.planned.size(); ++r)
    EXPECT_EQ(run.planned[r], role_of(answer.roles, static_cast<int>(r)).programs.plan.total_bytes) << "rank " << r;
  EXPECT_TRUE(std::isfinite(run.losses.front()));
}

class PlanFuzz : public testing::TestWithParam<int> {};

TEST_P(PlanFuzz, APlanThatHoldsOrATrueBound) {
  int cases = 0, infeasible = 0, ran = 0;
  for (std::uint64_t seed = 0; cases < kCasesPerGroup; ++seed) {
    Draw draw(static_cast<std::uint64_t>(GetParam()) * 1'000'000 + seed);
    const std::optional<Case> c = random_case(draw);
    if (!c) continue;
    SCOPED_TRACE(fmt::format("group {}, seed {}:\n{}", GetParam(), seed, dump_config(c->config)));
    ++cases;
    const std::int64_t most = largest_role(plan_with(*c, 0).roles).programs.plan.total_bytes + kOutside;
    const auto budget = static_cast<std::int64_t>((0.4 + draw.share()) * static_cast<double>(most));
    const Answer answer = plan_with(*c, budget);
    if (answer.no) {
      ++infeasible;
      expect_a_true_bound(*c, *answer.no, budget);
    } else {
      expect_a_plan_that_holds(answer, budget);
      const bool small = c->ranks <= 4 && ran < kCasesPerGroup / 10;
      if (small) expect_a_run_as_planned(*c, answer);
      ran += small ? 1 : 0;
    }
    if (HasFailure()) return;
  }
  EXPECT_GT(infeasible, kCasesPerGroup / 20);
  EXPECT_LT(infeasible, kCasesPerGroup - kCasesPerGroup / 20);
  EXPECT_GT(ran, 5);
}

// With half of what ranks miss of what they need in the budgets of the others, or twice as much: a rank that has less
// is given less of the state, and whatever fits with equal parts fits.
TEST_P(PlanFuzz, UnevenBudgetsHoldWhateverFitsWithEqualParts) {
  constexpr int kUnevenCases = kCasesPerGroup / 5;
  int cases = 0, only_uneven = 0, ran = 0;
  for (std::uint64_t seed = 0; cases < kUnevenCases; ++seed) {
    Draw draw(static_cast<std::uint64_t>(GetParam()) * 1'000'000 + 500'000 + seed);
    std::optional<Case> c = random_case(draw);
    if (!c || c->config.parallel.zero == 0 || c->config.parallel.data == 1) continue;
    SCOPED_TRACE(fmt::format("group {}, seed {}:\n{}", GetParam(), seed, dump_config(c->config)));
    ++cases;
    const Answer unlimited = plan_with(*c, 0);
    const RankRole& role = largest_role(unlimited.roles);
    const Mesh mesh = role.options.mesh;
    const std::int64_t needed = role.programs.plan.total_bytes + kOutside;
    const auto part = static_cast<double>(divided_state(role.options).bytes) / mesh.shards;
    const auto missing = static_cast<std::int64_t>(draw.share() * part);
    const auto more = static_cast<std::int64_t>(draw.of({0.5, 2.0}) * static_cast<double>(missing));
    const auto poor = draw.to(mesh.shards);
    std::vector<std::int64_t> by_rank;
    for (int rank = 0; rank < c->ranks; ++rank)
      by_rank.push_back(needed + (coordinates(mesh, rank).data % mesh.shards == poor ? -missing : more));
    const RankBudgets budgets(by_rank);
    const bool fits_even = !plan_with(*c, budgets).no;
    c->config.parallel.auto_state_shares = true;
    const Answer answer = plan_with(*c, budgets);
    EXPECT_TRUE(!fits_even || !answer.no);
    if (!answer.no) {
      expect_a_plan_that_holds(answer, budgets);
      if (c->ranks <= 4 && ran++ < 5) expect_a_run_as_planned(*c, answer);
    }
    only_uneven += !fits_even && !answer.no ? 1 : 0;
    if (HasFailure()) return;
  }
  EXPECT_GT(only_uneven, kUnevenCases / 20);
}

INSTANTIATE_TEST_SUITE_P(Groups, PlanFuzz, testing::Range(0, kGroups));

}  // namespace
}  // namespace plimsoll
