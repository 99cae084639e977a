#include "runtime/plan/bucket_sizes.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "runtime/core/error.hpp"
#include "runtime/plan/link_table.hpp"

namespace plimsoll {
namespace {

MessageSeconds over(const LinkLine& line) {
  return [line](std::int64_t bytes) { return line.seconds(static_cast<double>(bytes)); };
}

// A table as links have it: several regimes, and steps that no line goes through.
MessageSeconds over_random_table(std::mt19937& random) {
  std::uniform_real_distribution<double> factor(1.0, 2.6);
  std::vector<LinkSample> samples;
  double seconds = 1e-5;
  for (std::int64_t bytes = 16; bytes <= 1 << 14; bytes *= 2) samples.push_back({bytes, seconds *= factor(random)});
  return [table = LinkTable(samples)](std::int64_t bytes) { return table.seconds(static_cast<double>(bytes)); };
}

BucketProblem random_problem(std::mt19937& random, std::size_t items) {
  std::uniform_real_distribution<double> step(0.0, 4e-4), jitter(-3e-4, 3e-4);
  std::uniform_int_distribution<std::int64_t> bytes(1, 3000);
  BucketProblem problem;
  double now = 0;
  for (std::size_t i = 0; i < items; ++i) {
    now += step(random);
    problem.items.push_back({std::max(0.0, now + jitter(random)), bytes(random)});
    problem.compute_end_s = std::max(problem.compute_end_s, problem.items.back().ready_s);
  }
  problem.seconds = over_random_table(random);
  return problem;
}

// The least end of all 2^(n-1) cuts, and the fewest buckets among those that reach it.
struct BruteForce {
  double end_s = 1e300;
  std::size_t buckets = 0;
};
BruteForce brute_force(const BucketProblem& problem) {
  const std::size_t n = problem.items.size();
  BruteForce best;
  for (std::size_t mask = 0; mask < std::size_t{1} << (n - 1); ++mask) {
    std::vector<std::size_t> ends;
    for (std::size_t i = 1; i <= n; ++i) {
      if (i == n || ((mask >> (i - 1)) & 1U) != 0) ends.push_back(i);
    }
    bool fits = true;
    std::size_t begin = 0;
    for (const std::size_t end : ends) {
      std::int64_t bytes = 0;
      for (std::size_t i = begin; i < end; ++i) bytes += problem.items[i].bytes;
      fits = fits && (problem.most_bytes == 0 || end == begin + 1 || bytes <= problem.most_bytes);
      begin = end;
    }
    if (!fits) continue;
    best.end_s = std::min(best.end_s, time_buckets(problem, ends).end_s);
  }
  return best;
}

TEST(Buckets, TheChoiceIsTheBestOfAllCuts) {
  std::mt19937 random(1);
  for (std::size_t items = 1; items <= 16; ++items) {
    for (int i = 0; i < (items > 12 ? 3 : 20); ++i) {
      BucketProblem problem = random_problem(random, items);
      if (i % 3 == 0) problem.most_bytes = 2500;
      if (i % 2 == 0) problem.slows = 0.1 * (i % 9);
      const double least = brute_force(problem).end_s;
      const BucketChoice choice = choose_buckets(problem);
      EXPECT_NEAR(choice.best.end_s, least, 1e-9 * least) << items << " items, round " << i;
      EXPECT_EQ(choice.best.end_s, time_buckets(problem, choice.best.ends).end_s);
      EXPECT_LE(choice.best.exposed_s, choice.best.end_s);
    }
  }
}

// The table counts, not the line through it: a step at 1 KiB makes a cut that no line would.
TEST(Buckets, AStepOfTheTableDecides) {
  BucketProblem problem;
  problem.items.assign(4, {0, 512});
  problem.seconds = [](std::int64_t bytes) { return bytes <= 1024 ? 1.0 : 10.0; };
  EXPECT_EQ(choose_buckets(problem).best.ends, (std::vector<std::size_t>{2, 4}));
}

// Worked by hand: T = 1 + m. Ready at 0, 10, 20 with 5 bytes each: apart they end at 6, 16 and 26; together at 36.
TEST(Buckets, ComputeHidesAllButTheLast) {
  BucketProblem problem{{{0, 5}, {10, 5}, {20, 5}}, 20, 0, over({1, 1})};
  const BucketChoice choice = choose_buckets(problem);
  EXPECT_DOUBLE_EQ(choice.best.end_s, 26);
  EXPECT_DOUBLE_EQ(choice.best.exposed_s, 6);
  EXPECT_EQ(choice.one.ends, (std::vector<std::size_t>{3}));
  EXPECT_DOUBLE_EQ(choice.one.end_s, 36);
  EXPECT_DOUBLE_EQ(choice.gain_over_one_s(), 10);
  EXPECT_DOUBLE_EQ(choice.gain_over_fixed_s(), 10) << "25 MiB holds all three";
}

// The same where messages take half of the work beside them: the second is ready 3 s later, the third 5.5 s (half of
// what 10 bytes take as one), and two messages are done as early as three.
TEST(Buckets, MessagesDelayTheWorkBesideThem) {
  BucketProblem problem{{{0, 5}, {10, 5}, {20, 5}}, 20, 0, over({1, 1}), 0.5};
  EXPECT_DOUBLE_EQ(time_buckets(problem, {1, 2, 3}).end_s, 31.5);
  EXPECT_DOUBLE_EQ(time_buckets(problem, {2, 3}).end_s, 31.5);
  EXPECT_DOUBLE_EQ(time_buckets(problem, {1, 3}).end_s, 34);
  EXPECT_DOUBLE_EQ(time_buckets(problem, {3}).end_s, 36) << "nothing is left that it could delay";
  EXPECT_EQ(choose_buckets(problem).best.ends, (std::vector<std::size_t>{2, 3}));
  EXPECT_DOUBLE_EQ(choose_buckets(problem).best.exposed_s, 11.5);
}

// Where there is time, items travel together; nothing is cut for nothing.
TEST(Buckets, FewMessagesWhereTimeIsToSpare) {
  BucketProblem problem;
  for (int i = 0; i < 10; ++i) problem.items.push_back({static_cast<double>(i), 1});
  problem.items.push_back({1000, 1});
  problem.compute_end_s = 1000;
  problem.seconds = over({0.5, 10});
  EXPECT_EQ(choose_buckets(problem).best.ends, (std::vector<std::size_t>{10, 11}));
}

// An item that is ready late holds up its bucket, wherever it lies in it.
TEST(Buckets, ABucketWaitsForItsLastItem) {
  const BucketProblem problem{{{9, 1}, {1, 1}, {2, 1}}, 9, 0, over({0, 1})};
  EXPECT_DOUBLE_EQ(time_buckets(problem, {1, 3}).end_s, 12);
  EXPECT_DOUBLE_EQ(time_buckets(problem, {3}).end_s, 12);
}

TEST(Buckets, TheByteLimitHolds) {
  std::mt19937 random(2);
  for (int i = 0; i < 50; ++i) {
    BucketProblem problem = random_problem(random, 40);
    problem.most_bytes = 4000;
    for (const Buckets& buckets : {choose_buckets(problem).best, choose_buckets(problem).fixed}) {
      std::size_t begin = 0;
      for (const std::size_t end : buckets.ends) {
        std::int64_t bytes = 0;
        for (std::size_t item = begin; item < end; ++item) bytes += problem.items[item].bytes;
        EXPECT_TRUE(bytes <= 4000 || end == begin + 1) << bytes;
        begin = end;
      }
    }
  }
}

TEST(Buckets, FixedOnesTakeWhatFits) {
  const std::vector<ReadyItem> items{{0, 4}, {0, 4}, {0, 9}, {0, 1}, {0, 7}};
  EXPECT_EQ(fixed_buckets(items, 8), (std::vector<std::size_t>{2, 3, 5}));
  EXPECT_EQ(fixed_buckets(items, 1), (std::vector<std::size_t>{1, 2, 3, 4, 5}));
  EXPECT_EQ(fixed_buckets(items, 100), (std::vector<std::size_t>{5}));
}

TEST(Buckets, NothingToSendIsAFault) {
  EXPECT_THROW(choose_buckets({{}, 0, 0, over({1, 1})}), Error);
  EXPECT_THROW(time_buckets({{{0, 1}, {0, 1}}, 0, 0, over({1, 1})}, {1}), Error);
}

// With one gather per item, each ends where it is needed, or where the next has to begin.
double brute_force_gathers(std::span<const NeededItem> items, const MessageSeconds& seconds) {
  double least = 1e300;
  const std::size_t n = items.size();
  for (std::size_t mask = 0; mask < std::size_t{1} << (n - 1); ++mask) {
    double begins = 1e300;
    std::int64_t bytes = 0;
    for (std::size_t i = n; i-- > 0;) {
      bytes += items[i].bytes;
      const bool cut = i == 0 || ((mask >> (i - 1)) & 1U) == 1;
      if (!cut && !items[i].joins) begins = -1e300;  // not allowed: never the least
      if (!cut) continue;
      begins = std::min(begins, items[i].need_s) - seconds(bytes);
      bytes = 0;
    }
    least = std::min(least, items.back().need_s - begins);
  }
  return least;
}

TEST(Gathers, TheChoiceIsTheBestOfAllCuts) {
  std::mt19937 random(3);
  std::uniform_real_distribution<double> step(0.0, 4e-4);
  std::uniform_int_distribution<std::int64_t> bytes(1, 3000);
  for (std::size_t n = 1; n <= 12; ++n) {
    for (int round = 0; round < 5; ++round) {
      std::vector<NeededItem> items;
      double now = 0;
      for (std::size_t i = 0; i < n; ++i) {
        items.push_back({now, bytes(random), round < 3 || bytes(random) > 1000});
        now += step(random);
      }
      const MessageSeconds seconds = over_random_table(random);
      const double least = brute_force_gathers(items, seconds);
      EXPECT_NEAR(choose_gathers(items, 0, seconds).best.end_s, least, 1e-9 * least) << n;
    }
  }
}

// T = 1 + m: needed at 0 and 10. Apart: the first begins at -6, the second is hidden.
TEST(Gathers, GroupsAreInTheOrderOfUse) {
  const std::vector<NeededItem> items{{0, 5}, {10, 5}, {10, 5}};
  const BucketChoice choice = choose_gathers(items, 0, over({1, 1}));
  EXPECT_EQ(choice.best.ends.front(), 1U);
  EXPECT_EQ(choice.best.ends.back(), 3U);
  EXPECT_DOUBLE_EQ(choice.best.exposed_s, 7) << "11 s for the two behind, 6 for the first, 10 of them hidden";
}

// Of one section; the third use lies elsewhere than the second.
const std::vector<GatherUse> kFiveUses{{10, 5}, {10, 5, 0, true}, {10, 5}, {10, 5, 0, true}, {10, 5, 0, true}};

TEST(JoinedGathers, FollowTheBytesAndTheNeighbours) {
  GatherSections sections{kFiveUses, kFiveUses};
  EXPECT_EQ(gather_ends(sections), (std::vector<std::size_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
  join_gathers(sections, 10, nullptr);
  EXPECT_EQ(gather_ends(sections), (std::vector<std::size_t>{2, 4, 5, 7, 9, 10}));
  join_gathers(sections, 100, nullptr);
  EXPECT_EQ(gather_ends(sections), (std::vector<std::size_t>{2, 5, 7, 10}));
  join_gathers(sections, 9, nullptr);
  EXPECT_EQ(gather_ends(sections), (std::vector<std::size_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
}

// A message costs as much as 100 bytes: all that may be joined is; without latency each use is by itself.
TEST(JoinedGathers, FollowTheLinks) {
  GatherSections sections{kFiveUses};
  join_gathers(sections, 1000, over({100, 1}));
  EXPECT_EQ(gather_ends(sections), (std::vector<std::size_t>{2, 5}));
  join_gathers(sections, 14, over({100, 1}));
  for (const GatherUse& use : sections.front()) EXPECT_TRUE(use.joins || !use.joined);
  EXPECT_EQ(gather_ends(sections).size(), 3U) << "at most two together";
  join_gathers(sections, 1, over({100, 1}));
  EXPECT_EQ(gather_ends(sections).size(), 5U);
}

// T = 1 + m. The gather of both is there before the first begins; a sum behind the first goes before the next gather.
TEST(JoinedGathers, AreOneMessageOnTheClock) {
  GatherSections sections{{{10, 5}, {10, 5, 0, true}, {10, 5}}};
  const MessageSeconds seconds = over({1, 1});
  const Prefetch apart = time_prefetch(sections, seconds, 0);
  join_gathers(sections, 10, nullptr);
  const Prefetch none = time_prefetch(sections, seconds, 0), one = time_prefetch(sections, seconds, 1);
  EXPECT_DOUBLE_EQ(apart.end_s, 3 * 16);
  EXPECT_DOUBLE_EQ(none.end_s, 11 + 20 + 6 + 10);
  EXPECT_EQ(none.buffer_bytes, 10);
  EXPECT_DOUBLE_EQ(one.end_s, 11 + 30) << "the third is gathered beside the first";
  EXPECT_EQ(one.buffer_bytes, 15);
  sections.front().front().after_s = 4;
  EXPECT_DOUBLE_EQ(time_prefetch(sections, seconds, 0).end_s, 11 + 20 + 6 + 10) << "beside the second use";
  sections.front().front().after_s = 14;
  EXPECT_DOUBLE_EQ(time_prefetch(sections, seconds, 0).end_s, 11 + 10 + 14 + 6 + 10) << "the link is busy for 4 s more";
}

TEST(Prefetch, HidesGathersBehindTheUsesBefore) {
  const GatherSections uses{std::vector<GatherUse>(6, {10, 5})};
  const MessageSeconds seconds = over({1, 1});
  const Prefetch none = time_prefetch(uses, seconds, 0), one = time_prefetch(uses, seconds, 1);
  EXPECT_DOUBLE_EQ(none.end_s, 6 * 16);
  EXPECT_DOUBLE_EQ(one.end_s, 6 + 60);
  EXPECT_DOUBLE_EQ(one.exposed_s, 6);
  EXPECT_EQ(none.buffer_bytes, 5);
  EXPECT_EQ(one.buffer_bytes, 10);
  const PrefetchChoice choice = choose_prefetch(uses, seconds, 0, 4);
  EXPECT_EQ(choice.best.distance, 1) << "more would only take memory";
  EXPECT_DOUBLE_EQ(choice.gain_s(), 30);
}

// A long gather behind a short use hides only when it begins earlier.
TEST(Prefetch, UnevenUsesNeedMore) {
  std::vector<GatherUse> uses;
  for (int i = 0; i < 4; ++i) {
    uses.push_back({30, 4});
    uses.push_back({1, 4});
    uses.push_back({1, 20});
  }
  const MessageSeconds seconds = over({0, 1});
  const GatherSections sections{uses};
  const PrefetchChoice choice = choose_prefetch(sections, seconds, 0, 8);
  EXPECT_GT(choice.best.distance, 1);
  EXPECT_LT(choice.best.end_s, time_prefetch(sections, seconds, 1).end_s);
  for (int distance = 0; distance <= 8; ++distance)
    EXPECT_GE(time_prefetch(sections, seconds, distance).end_s, choice.best.end_s * (1 - 1e-9));
  // Each limit of memory has its own answer, and a smaller one is never faster.
  double last = 0;
  for (const std::int64_t budget : {1000, 40, 29, 24, 20, 1}) {
    const Prefetch best = choose_prefetch(sections, seconds, budget, 8).best;
    EXPECT_TRUE(best.buffer_bytes <= budget || best.distance == 0) << budget;
    EXPECT_GE(best.end_s, last);
    last = best.end_s;
  }
}

// T = 1 + m. Sums of 4 s behind each use stand in the link before the gather of the use after the next.
TEST(Prefetch, WhatIsSentBehindAUseHoldsUpLaterGathers) {
  const MessageSeconds seconds = over({1, 1});
  const GatherSections free{std::vector<GatherUse>(4, {10, 5})}, busy{std::vector<GatherUse>(4, {10, 5, 4})};
  EXPECT_DOUBLE_EQ(time_prefetch(free, seconds, 1).end_s, 6 + 40);
  EXPECT_DOUBLE_EQ(time_prefetch(busy, seconds, 1).end_s, 6 + 40 + 4) << "4 and 6 s fit beside a use of 10";
  EXPECT_DOUBLE_EQ(time_prefetch(busy, seconds, 0).end_s, 4 * (6 + 10 + 4));
  const GatherSections slow{std::vector<GatherUse>(4, {10, 5, 8})};
  // The gather of use 1 is there at 12, that of use 2 begins behind the first sum, at 16 + 8.
  EXPECT_DOUBLE_EQ(time_prefetch(slow, seconds, 1).end_s, 62);
  EXPECT_DOUBLE_EQ(time_prefetch(slow, seconds, 2).end_s, 56) << "two gathers are under way before the first sum";
}

// A section begins when the one before is done: nothing is gathered for it before.
TEST(Prefetch, SectionsWait) {
  const MessageSeconds seconds = over({1, 1});
  const std::vector<GatherUse> uses(3, {10, 5});
  const Prefetch one = time_prefetch({uses}, seconds, 1), two = time_prefetch({uses, uses}, seconds, 1);
  EXPECT_DOUBLE_EQ(two.end_s, 2 * one.end_s);
  EXPECT_DOUBLE_EQ(two.exposed_s, 2 * one.exposed_s);
  EXPECT_EQ(two.buffer_bytes, one.buffer_bytes);
}

}  // namespace
}  // namespace plimsoll
