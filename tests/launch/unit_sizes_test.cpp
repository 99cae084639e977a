// What ZeRO sends at once, by the links of a description: how far ahead units are gathered, and which are gathered and
// summed as one.

#include <gtest/gtest.h>

#include "launch/message_sizes.hpp"
#include "launch/run_setup.hpp"
#include "tests/launch/described_links.hpp"
#include "tests/launch/tiny_run.hpp"

namespace plimsoll {
namespace {

using namespace test;

ProgramOptions sharded_options(const ClusterDescription& cluster) {
  ProgramOptions o = tiny_options(ModelFamily::Gpt2);
  o.model.layers = 6;
  o.mesh.data = o.mesh.shards = 2;
  o.zero = 3;
  o.micro_batches = 4;
  o.costs = std::make_shared<DescribedCosts>(cluster);
  return o;
}

int choose_distance(const ProgramOptions& o, const FitsEverywhere& fits) {
  return choose_gathering(o, {.bytes = 0}, fits).prefetch;
}

// Layers differ from the embedding and the head, so one use ahead need not be enough.
TEST(PrefetchDistance, IsTheBestThatFits) {
  const ProgramOptions o = sharded_options(cluster_of(1e-4, 3e6));
  const int best = choose_distance(o, always);
  const Programs programs = build_programs(o);
  ASSERT_TRUE(programs.gathers && programs.gathers->against);
  EXPECT_EQ(programs.gathers->against->best.distance, best);
  EXPECT_GT(best, 1);
  EXPECT_LE(programs.gathers->against->best.end_s, programs.gathers->usual->end_s);
  EXPECT_LT(programs.gathers->usual->end_s, programs.gathers->against->none.end_s);
  const auto arena = [&](int distance) {
    ProgramOptions with = o;
    with.prefetch = distance;
    return build_programs(with).plan.total_bytes;
  };
  EXPECT_GT(arena(best), arena(1));
  const auto within = [](std::int64_t bytes) {
    return [bytes](const ProgramOptions& with) { return build_programs(with).plan.total_bytes <= bytes; };
  };
  EXPECT_EQ(choose_distance(o, within(arena(best))), best);
  EXPECT_LT(choose_distance(o, within(arena(best) - 1)), best);
  EXPECT_EQ(choose_distance(o, within(arena(1))), 1);
}

TEST(PrefetchDistance, IsOneWhereMoreGainsNothing) {
  EXPECT_EQ(choose_distance(sharded_options(cluster_of(0, 1e15)), always), 1) << "gathers take no time";
  ProgramOptions o = sharded_options(cluster_of(1e-4, 3e6));
  o.costs = nullptr;
  EXPECT_EQ(choose_distance(o, always), 1);
  o = sharded_options(cluster_of(1e-4, 3e6));
  o.zero = 2;
  EXPECT_EQ(choose_distance(o, always), 1);
}

double gather_seconds(const ProgramOptions& o) { return build_programs(o).gathers->chosen->end_s; }

TEST(JoinedGathers, AreChosenWhereLatencyCosts) {
  const ProgramOptions o = sharded_options(kLatent);
  const ProgramOptions chosen = choose_gathering(o, {}, always);
  EXPECT_GT(chosen.gather_bytes, 0);
  EXPECT_TRUE(chosen.gather_by_links);
  const Programs programs = build_programs(chosen);
  EXPECT_LT(programs.gathers->gathers, programs.gathers->uses);
  EXPECT_LT(programs.gathers->chosen->end_s, programs.gathers->apart->end_s);
  // No other limit and distance, of all bytes that make a difference, is faster by more than what halving leaves out.
  double best = gather_seconds(chosen);
  for (std::int64_t bytes = 20000; bytes <= 320000; bytes += 20000) {
    ProgramOptions other = chosen;
    for (other.prefetch = 1; other.prefetch <= kMostPrefetch; ++other.prefetch) {
      other.gather_bytes = bytes;
      best = std::min(best, gather_seconds(other));
    }
  }
  EXPECT_LE(gather_seconds(chosen), 1.05 * best);
  for (const ClusterDescription& cluster : {cluster_of(0, 1e15), cluster_of(0, 3e6)})
    EXPECT_EQ(choose_gathering(sharded_options(cluster), {}, always).gather_bytes, 0) << "no latency, nothing to save";
  EXPECT_EQ(choose_gathering(o, {.bytes = 20000}, always).gather_bytes, 20000) << "as asked";
  EXPECT_EQ(choose_gathering(o, {.distance = 2}, always).prefetch, 2);
}

// What is chosen fits; less memory is never faster, and all that could be used is used where it is there. `choose`
// takes FitsEverywhere.
template <class Choose>
void expect_within_budgets(const ProgramOptions& o, const Choose& choose, double (*seconds)(const ProgramOptions&)) {
  const auto arena = [](const ProgramOptions& with) { return build_programs(with).plan.total_bytes; };
  const auto chosen_within = [&](std::int64_t bytes) {
    return choose([&](const ProgramOptions& with) { return arena(with) <= bytes; });
  };
  const std::int64_t most = arena(choose(always)), least = arena(o);
  ASSERT_GT(most, least);
  double last = 0;
  for (const std::int64_t budget : {most, most - 1, (most + least) / 2, least}) {
    const ProgramOptions chosen = chosen_within(budget);
    EXPECT_LE(arena(chosen), budget);
    EXPECT_GE(seconds(chosen), last) << "less memory is never faster";
    last = seconds(chosen);
  }
  EXPECT_EQ(arena(chosen_within(most)), most);
}

TEST(JoinedGathers, FitTheBudget) {
  const ProgramOptions o = sharded_options(kLatent);
  expect_within_budgets(
      o, [&](const FitsEverywhere& fits) { return choose_gathering(o, {}, fits); }, gather_seconds);
}

// Stages have different layers; ranks must not choose differently.
TEST(JoinedGathers, AreTheSameOnAllRanks) {
  ProgramOptions o = sharded_options(kLatent);
  o.mesh.pipeline = 2;
  o.stage_layers = {5, 1};
  const ProgramOptions chosen = choose_gathering(o, {}, always);
  EXPECT_GT(chosen.gather_bytes, 0);
  for (o.rank = 1; o.rank < o.mesh.ranks(); ++o.rank) {
    const ProgramOptions other = choose_gathering(o, {}, always);
    EXPECT_EQ(std::pair(other.gather_bytes, other.prefetch), std::pair(chosen.gather_bytes, chosen.prefetch));
  }
}

ProgramOptions summing_options(const ClusterDescription& cluster, int zero) {
  ProgramOptions o = sharded_options(cluster);
  o.zero = zero;
  o.model.layers = 8;
  return o;
}

double sums_seconds(const ProgramOptions& o) { return build_programs(o).buckets->chosen->end_s; }

TEST(UnitBuckets, AreChosenWhereLatencyCosts) {
  for (const int zero : {1, 2, 3}) {
    SCOPED_TRACE(zero);
    for (const ClusterDescription& cluster : {kLatent, cluster_of(2e-4, 1e7), cluster_of(5e-3, 1e7)}) {
      ProgramOptions o = summing_options(cluster, zero);
      const ProgramOptions chosen = choose_unit_buckets(o, always);
      const GradientBuckets sized = *build_programs(chosen).buckets;
      EXPECT_LE(sized.chosen->end_s, sized.apart->end_s);
      // No bytes that are given are faster by more than what joins must save.
      double best = sized.chosen->end_s;
      for (std::int64_t bytes = 1; bytes <= 1 << 20; bytes = bytes * 5 / 4 + 1000) {
        o.bucket_bytes = bytes;
        best = std::min(best, sums_seconds(o));
      }
      EXPECT_LE(sized.chosen->end_s, (zero == 3 ? 1.05 : 1.002) * best);
    }
    const ProgramOptions latent = choose_unit_buckets(summing_options(kLatent, zero), always);
    EXPECT_GT(latent.unit_bucket_bytes, 0);
    const GradientBuckets sized = *build_programs(latent).buckets;
    EXPECT_LT(sized.bytes.size(), 10U);
    EXPECT_LT(sized.chosen->end_s, 0.9 * sized.apart->end_s);
    EXPECT_EQ(sized.each_micro_batch, zero > 1);
    EXPECT_EQ(choose_unit_buckets(summing_options(cluster_of(0, 3e6), zero), always).unit_bucket_bytes, 0)
        << "no latency, nothing to save";
  }
  ProgramOptions o = summing_options(kLatent, 2);
  o.bucket_bytes = 20000;
  EXPECT_EQ(choose_unit_buckets(o, always).unit_bucket_bytes, 0) << "as asked";
  o = summing_options(kLatent, 2);
  o.costs = nullptr;
  EXPECT_EQ(choose_unit_buckets(o, always).unit_bucket_bytes, 0) << "nobody said what the links are like";
}

// Gradients that wait for their neighbours take memory, from ZeRO-2 on.
TEST(UnitBuckets, FitTheBudget) {
  for (const int zero : {2, 3}) {
    SCOPED_TRACE(zero);
    const ProgramOptions o = summing_options(kLatent, zero);
    expect_within_budgets(
        o, [&](const FitsEverywhere& fits) { return choose_unit_buckets(o, fits); }, sums_seconds);
  }
}

// Stages have different layers; ranks must not choose differently.
TEST(UnitBuckets, AreTheSameOnAllRanks) {
  ProgramOptions o = summing_options(kLatent, 2);
  o.mesh.pipeline = 2;
  o.stage_layers = {6, 2};
  const std::int64_t chosen = choose_unit_buckets(o, always).unit_bucket_bytes;
  EXPECT_GT(chosen, 0);
  for (o.rank = 1; o.rank < o.mesh.ranks(); ++o.rank)
    EXPECT_EQ(choose_unit_buckets(o, always).unit_bucket_bytes, chosen);
}

}  // namespace
}  // namespace plimsoll
