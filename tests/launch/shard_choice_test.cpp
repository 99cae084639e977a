// parallel.shard: auto, by made-up links and by memory.

#include "launch/shard_choice.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

#include "launch/cluster_file.hpp"
#include "launch/plan_file.hpp"
#include "launch/plan_report.hpp"
#include "launch/run_setup.hpp"
#include "tests/launch/tiny_run.hpp"

namespace plimsoll {
namespace {

using namespace test;

// Nodes of `per_node` ranks; both links are lines.
ClusterDescription cluster_of(LinkDescription inside, LinkDescription between, std::int64_t per_node) {
  ClusterDescription c;
  c.inside = inside;
  c.between = between;
  c.devices_per_node = per_node;
  return c;
}

ProgramOptions sharded(int ranks, int zero = 1) {
  ProgramOptions o = tiny_options(ModelFamily::Llama);
  o.model.layers = 6;
  o.mesh.data = o.mesh.shards = ranks;
  o.zero = zero;
  return o;
}

bool always(const ProgramOptions&) { return true; }

TEST(ShardGroups, RespectNodes) {
  EXPECT_EQ(shard_groups(8, 1, 4), (std::vector<int>{1, 2, 4, 8}));
  EXPECT_EQ(shard_groups(12, 1, 4), (std::vector<int>{1, 2, 4, 12})) << "6 would begin and end inside a node";
  EXPECT_EQ(shard_groups(12, 2, 8), (std::vector<int>{1, 2, 4, 12}));
  EXPECT_EQ(shard_groups(4, 8, 8), (std::vector<int>{1, 2, 4})) << "a replica fills a node";
  EXPECT_EQ(shard_groups(6, 1, 6), (std::vector<int>{1, 2, 3, 6}));
  EXPECT_EQ(shard_groups(1, 4, 4), (std::vector<int>{1}));
}

// A collective of n ranks takes ceil(log2 n) latencies and (n - 1)/n of the bytes; 90 % asks for nine times that
// latency at that rate.
TEST(ShardChoice, TheFormulaOfTheGroupsLink) {
  const DescribedCosts links(cluster_of({1e-6, 1e8}, {1e-6, 1e8}, 8));
  const ShardGroupChoice choice = choose_shards(sharded(8), links, 8, always);
  ASSERT_EQ(choice.groups.size(), 4U);
  EXPECT_EQ(choice.groups[0].least_bytes, 0);
  EXPECT_NEAR(static_cast<double>(choice.groups[1].least_bytes), 9 * 1e-6 * 1e8 * 2, 20);
  EXPECT_NEAR(static_cast<double>(choice.groups[2].least_bytes), 9 * 2e-6 * 1e8 * 4 / 3, 20);
  EXPECT_NEAR(static_cast<double>(choice.groups[3].least_bytes), 9 * 3e-6 * 1e8 * 8 / 7, 20);
}

TEST(ShardChoice, LatencyMakesGroupsSmall) {
  const auto ranks_with = [](double latency_s, int zero) {
    const DescribedCosts links(cluster_of({latency_s, 1e8}, {latency_s, 1e8}, 8));
    return choose_shards(sharded(8, zero), links, 8, always).ranks;
  };
  for (const int zero : {1, 2, 3}) {
    EXPECT_EQ(ranks_with(0, zero), 8);
    EXPECT_EQ(ranks_with(1, zero), 1);
    int last = 8;
    for (const double latency_s : {1e-7, 5e-6, 1e-5, 3e-5, 1e-4}) {
      EXPECT_LE(ranks_with(latency_s, zero), last) << latency_s;
      last = ranks_with(latency_s, zero);
    }
  }
  // A fast link inside nodes and a slow one between them: the ranks of a node.
  const DescribedCosts two(cluster_of({1e-9, 1e9}, {1e-2, 1e7}, 4));
  EXPECT_EQ(choose_shards(sharded(8), two, 4, always).ranks, 4);
}

TEST(ShardChoice, MemoryMakesThemLarger) {
  const DescribedCosts slow(cluster_of({1, 1e8}, {1, 1e8}, 8));
  const auto arena = [](int ranks) {
    ProgramOptions o = sharded(8, 3);
    o.mesh.shards = ranks;
    return build_programs(o).plan.total_bytes;
  };
  ASSERT_LT(arena(8), arena(4));
  ASSERT_LT(arena(4), arena(1));
  const auto ranks_within = [&](std::int64_t bytes) {
    const FitsEverywhere fits = [bytes](const ProgramOptions& with) {
      return build_programs(with).plan.total_bytes <= bytes;
    };
    return choose_shards(sharded(8, 3), slow, 8, fits).ranks;
  };
  EXPECT_EQ(ranks_within(arena(1)), 1);
  EXPECT_EQ(ranks_within(arena(4)), 4);
  EXPECT_EQ(ranks_within(arena(8)), 8);
  EXPECT_EQ(ranks_within(1), 8);
}

// Stages have different layers; ranks must not choose differently.
TEST(ShardChoice, IsTheSameOnAllRanks) {
  ProgramOptions o = sharded(4);
  o.mesh.pipeline = 2;
  o.stage_layers = {5, 1};
  o.micro_batches = 2;
  const DescribedCosts links(cluster_of({3e-6, 1e8}, {3e-6, 1e8}, 8));
  const ShardGroupChoice first = choose_shards(o, links, 8, always);
  for (o.rank = 1; o.rank < o.mesh.ranks(); ++o.rank) {
    const ShardGroupChoice other = choose_shards(o, links, 8, always);
    EXPECT_EQ(other.ranks, first.ranks);
    EXPECT_EQ(other.unit_bytes, first.unit_bytes);
  }
}

class AutomaticShards : public testing::Test {
 protected:
  AutomaticShards() { write_tiny_data(folder_); }
  Config config(const ClusterDescription& cluster, const std::string& shard, const std::string& zero = "1") {
    std::ofstream(folder_ / "cluster.yaml") << write_cluster(cluster, "# of a test\n");
    Config c = tiny_config(folder_, "run",
                           {"comm.cluster=" + (folder_ / "cluster.yaml").string(), "train.micro_batch=1",
                            "parallel.zero=" + zero, "parallel.shard=" + shard});
    check_for_ranks(c, 4);
    return c;
  }
  static ProgramOptions options(const Config& c, std::int64_t budget = 0) {
    return choose_programs(c, {0, 4, 0, 4}, Purpose::Train, budget, 0);
  }
  TempFolder folder_;
};

const ClusterDescription kSlow = cluster_of({1, 1e8}, {1, 1e8}, 4), kFast = cluster_of({0, 1e8}, {0, 1e8}, 4);

TEST_F(AutomaticShards, FollowTheClusterAndTheBudget) {
  EXPECT_EQ(options(config(kSlow, "auto")).mesh.shards, 1);
  EXPECT_EQ(options(config(kFast, "auto")).mesh.shards, 4);
  EXPECT_EQ(options(config(kSlow, "all")).mesh.shards, 4) << "the default";
  EXPECT_FALSE(options(config(kSlow, "all")).shard_choice);
  EXPECT_EQ(options(config(kSlow, "2")).mesh.shards, 2);
  EXPECT_EQ(options(config(kSlow, "auto", "0")).mesh.shards, 4) << "nothing is divided";
  const std::int64_t whole = build_programs(options(config(kSlow, "1"))).plan.total_bytes,
                     halves = build_programs(options(config(kSlow, "2"))).plan.total_bytes;
  ASSERT_LT(halves, whole);
  const ProgramOptions o = options(config(kSlow, "auto"), whole - 1);
  EXPECT_EQ(o.mesh.shards, 2);
  const std::vector<RankRole> roles = rank_roles(o);
  const std::string text = plan_text(roles, {0, 0, "", 4}, nullptr);
  EXPECT_NE(text.find("zero divides over 2 of 4 replicas"), std::string::npos) << text;
  EXPECT_NE(text.find("links ask for 1, memory for more"), std::string::npos) << text;
  const nlohmann::json json = plan_json(roles, {0, 0, "", 4});
  EXPECT_EQ(json["mesh"]["shard"], 2);
  EXPECT_EQ(json["shard_choice"]["by_links"], 1);
  EXPECT_EQ(json["shard_choice"]["groups"].size(), 3U);
}

TEST_F(AutomaticShards, WithoutLinksAllDivide) {
  Config c = tiny_config(folder_, "run", {"train.micro_batch=1", "parallel.zero=1", "parallel.shard=auto"});
  check_for_ranks(c, 4);
  EXPECT_EQ(options(c).mesh.shards, 4);
  EXPECT_FALSE(options(c).shard_choice);
}

// Which elements a rank sums into the norm depends on the shards: what links are like now changes no bit of a run.
TEST_F(AutomaticShards, AreKeptByAResumedRun) {
  Config c = config(kSlow, "auto");
  std::filesystem::create_directories(folder_ / "run/checkpoints");
  std::ofstream(folder_ / "run/plan.json") << plan_json(rank_roles(options(c)), {0, 0, "", 4}).dump();
  c = config(kFast, "auto");
  EXPECT_EQ(options(c).mesh.shards, 4);
  keep_plan_choices(c, 4);
  EXPECT_EQ(options(c).mesh.shards, 1);
}

}  // namespace
}  // namespace plimsoll
