// parallel.shares: auto: what is chosen for replicas whose speeds are known, and for those that were measured.

#include "launch/share_choice.hpp"

#include <gtest/gtest.h>

#include <mutex>
#include <numeric>

#include "launch/step_times.hpp"
#include "tests/launch/tiny_run.hpp"
#include "tests/support/local_mesh.hpp"

namespace plimsoll {
namespace {

using namespace test;

using Counts = std::vector<std::int64_t>;

ProgramOptions options_of(const Mesh& mesh, std::int64_t micro_batches) {
  ProgramOptions o = tiny_options(ModelFamily::Gpt2);
  o.model.layers = 4;
  o.mesh = mesh;
  o.micro_batches = micro_batches;
  return o;
}

const auto kFits = [](const ProgramOptions&) { return true; };

TEST(ShareChoice, FollowsTheSpeeds) {
  const ShareChoice choice = choose_shares(options_of({.data = 2}, 6), {0.02, 0.01}, kFits);
  EXPECT_EQ(choice.shares, (Counts{4, 8}));
  EXPECT_DOUBLE_EQ(choice.seconds, 0.08);
  EXPECT_DOUBLE_EQ(choice.even_s, 0.12);
  EXPECT_EQ(choice.slowness(), (std::vector<double>{1, 0.5}));
  EXPECT_EQ(choose_shares(options_of({.data = 3}, 2), {1, 100, 1}, kFits).shares, (Counts{3, 1, 2}))
      << "everyone has one";
}

// Half a percent is noise, and one micro-batch more for nine others is not.
TEST(ShareChoice, StaysEvenWithoutAGain) {
  EXPECT_EQ(choose_shares(options_of({.data = 2}, 200), {1.005, 1.0}, kFits).shares, (Counts{200, 200}));
  EXPECT_EQ(choose_shares(options_of({.data = 2}, 2), {1.2, 1.0}, kFits).shares, (Counts{2, 2}));
  EXPECT_EQ(choose_shares(options_of({.data = 2}, 10), {1.2, 1.0}, kFits).shares, (Counts{9, 11}));
}

TEST(ShareChoice, AnInterleavedPipelineTakesWholeRounds) {
  ProgramOptions o = options_of({.data = 2, .pipeline = 2}, 6);
  o.schedule = ScheduleKind::Interleaved;
  o.chunks = 2;
  EXPECT_EQ(choose_shares(o, {0.02, 0.01}, kFits).shares, (Counts{4, 8}));
}

// All micro-batches of GPipe are in flight: the arena of the larger share decides.
TEST(ShareChoice, FitsTheBudget) {
  ProgramOptions o = options_of({.data = 2, .pipeline = 2}, 6);
  o.schedule = ScheduleKind::GPipe;
  EXPECT_EQ(choose_shares(o, {0.05, 0.01}, kFits).shares, (Counts{2, 10}));
  ProgramOptions eight = o;
  set_shares(eight, {4, 8}, 0);
  const std::int64_t budget = largest_role(rank_roles(eight)).programs.plan.total_bytes;
  const auto fits = [&](const ProgramOptions& with) { return !check_budget(rank_roles(with), budget, 0); };
  EXPECT_EQ(choose_shares(o, {0.05, 0.01}, fits).shares, (Counts{4, 8}));
  const ShareChoice even = choose_shares(o, {0.05, 0.01}, [](const ProgramOptions&) { return false; });
  EXPECT_EQ(even.shares, (Counts{6, 6}));
  EXPECT_EQ(even.gain_s(), 0);
}

// Every rank gets the same numbers, one for each replica: that of its slowest rank.
TEST(ShareChoice, AllRanksMeasureTheSame) {
  for (const Mesh& mesh : {Mesh{.data = 2}, Mesh{.data = 2, .tensor = 2}, Mesh{.data = 2, .pipeline = 2}}) {
    std::vector<std::vector<double>> seen;
    std::mutex mutex;
    on_mesh(mesh, [&](int rank, const Groups& groups) {
      ProgramOptions o = options_of(mesh, 4);
      o.rank = rank;
      EngineOptions options;
      for (const auto& [axis, group] : groups) options.groups[axis] = &group;
      Engine engine(build_programs(o), options);
      engine.initialise(1);
      const TinyBatch batch = tiny_batch(o, 0, 0, o.micro_batch);
      const auto measured = measure_replicas(engine, o, groups.find("world")->second, {batch.tokens, batch.targets, 0});
      const std::lock_guard lock(mutex);
      seen.push_back(measured);
    });
    ASSERT_EQ(seen.size(), static_cast<std::size_t>(mesh.ranks()));
    ASSERT_EQ(seen.front().size(), 2U);
    for (const double seconds : seen.front()) EXPECT_GT(seconds, 0);
    for (const auto& other : seen) EXPECT_EQ(other, seen.front());
  }
}

// The predicted step is that of the replica that is done last.
TEST(ShareChoice, ThePredictedStepFollowsSharesAndSpeeds) {
  const DescribedCosts costs{ClusterDescription{}};
  const LayoutMachine machine{costs.cluster(), &costs};
  for (const int stages : {1, 2}) {
    const auto seconds = [&](const Counts& shares, const std::vector<double>& slowness) {
      ProgramOptions o = options_of({.data = 2, .pipeline = stages}, 0);
      set_shares(o, shares, 0);
      return predict_step(rank_roles(o), machine, slowness).step_s;
    };
    const double even = seconds({6, 6}, {});
    EXPECT_DOUBLE_EQ(seconds({6, 6}, {1, 1}), even);
    EXPECT_GT(seconds({4, 8}, {}), even);
    EXPECT_DOUBLE_EQ(seconds({6, 6}, {0.5, 1}), even);
    EXPECT_LT(seconds({8, 4}, {0.5, 1}), even);
  }
}

}  // namespace
}  // namespace plimsoll
