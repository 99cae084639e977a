// What `auto` chooses for messages by the links of a description, and that it is kept.

#include "launch/message_sizes.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

#include "launch/cluster_file.hpp"
#include "launch/plan_report.hpp"
#include "launch/run_files.hpp"
#include "launch/run_setup.hpp"
#include "parallel/overlap.hpp"
#include "tests/launch/tiny_run.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr double kFlopsPerSecond = 1e8;

ClusterDescription cluster_of(double latency_s, double bytes_per_s, double overhead_s = 0) {
  ClusterDescription c;
  c.inside = c.between = {latency_s, bytes_per_s};
  c.device.kernel_overhead_s = overhead_s;
  c.device.matmul.fp32 = c.device.attention.fp32 = kFlopsPerSecond;
  return c;
}

ProgramOptions split_options(const ClusterDescription& cluster, bool sequence = false, int stages = 1) {
  ProgramOptions o = tiny_options(ModelFamily::Llama);
  o.mesh.tensor = 2;
  o.mesh.pipeline = stages;
  o.micro_batch = 8;
  o.micro_batches = 4;
  o.sequence_parallel = sequence;
  o.costs = std::make_shared<DescribedCosts>(cluster);
  return o;
}

bool always(const ProgramOptions&) { return true; }

double seconds_with(const ProgramOptions& o, int chunks) {
  Graph graph = rewritten_graph(o).graph;
  overlap_linears(graph, chunks);
  return micro_batch_seconds(graph, o);
}

// A message takes about as long as the product before it.
const ClusterDescription kBalanced = cluster_of(1e-6, 4e6);

TEST(TensorChunks, AreNearTheBestOfAllNumbers) {
  for (const ClusterDescription& cluster : {kBalanced, cluster_of(1e-5, 1e6, 1e-5), cluster_of(2e-4, 4e6, 2e-5)}) {
    for (const bool sequence : {false, true}) {
      const ProgramOptions o = split_options(cluster, sequence);
      double best = seconds_with(o, 1);
      for (int chunks = 2; chunks <= kMostTensorChunks; ++chunks) {
        if (!tensor_chunks_fault(o.micro_batch, o.sequence, sequence, chunks))
          best = std::min(best, seconds_with(o, chunks));
      }
      const int chosen = choose_tensor_chunks(o, always);
      EXPECT_LE(seconds_with(o, chosen), 1.05 * best) << chosen;
      EXPECT_LE(seconds_with(o, chosen), seconds_with(o, 1));
    }
  }
  EXPECT_GT(choose_tensor_chunks(split_options(kBalanced), always), 1);
  EXPECT_LT(seconds_with(split_options(kBalanced), choose_tensor_chunks(split_options(kBalanced), always)),
            0.95 * seconds_with(split_options(kBalanced), 1));
}

TEST(TensorChunks, AreWholeWhereNothingIsGained) {
  EXPECT_EQ(choose_tensor_chunks(split_options(cluster_of(1, 1e12)), always), 1) << "each message costs a second";
  ProgramOptions o = split_options(kBalanced);
  o.costs = nullptr;
  EXPECT_EQ(choose_tensor_chunks(o, always), 1) << "nobody said what the links are like";
  o = split_options(kBalanced);
  o.mesh.tensor = 1;
  EXPECT_EQ(choose_tensor_chunks(o, always), 1);
}

TEST(TensorChunks, FitTheBudget) {
  const ProgramOptions o = split_options(kBalanced);
  const int best = choose_tensor_chunks(o, always);
  const int next = choose_tensor_chunks(o, [&](const ProgramOptions& with) { return with.tensor_chunks != best; });
  EXPECT_LT(next, best);
  EXPECT_LE(seconds_with(o, next), seconds_with(o, 1));
  EXPECT_EQ(choose_tensor_chunks(o, [](const ProgramOptions&) { return false; }), 1);
}

// Stages have different layers; ranks must not choose differently.
TEST(TensorChunks, AreTheSameOnAllRanks) {
  ProgramOptions o = split_options(kBalanced, false, 2);
  o.model.layers = 3;
  const int chosen = choose_tensor_chunks(o, always);
  EXPECT_GT(chosen, 1);
  for (o.rank = 1; o.rank < o.mesh.ranks(); ++o.rank) EXPECT_EQ(choose_tensor_chunks(o, always), chosen);
}

ProgramOptions sharded_options(const ClusterDescription& cluster) {
  ProgramOptions o = tiny_options(ModelFamily::Gpt2);
  o.model.layers = 6;
  o.mesh.data = o.mesh.shards = 2;
  o.zero = 3;
  o.micro_batches = 4;
  o.costs = std::make_shared<DescribedCosts>(cluster);
  return o;
}

// Layers differ from the embedding and the head, so one use ahead need not be enough.
TEST(PrefetchDistance, IsTheBestThatFits) {
  const ProgramOptions o = sharded_options(cluster_of(1e-4, 3e6));
  const int best = choose_prefetch_distance(o, always);
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
  EXPECT_EQ(choose_prefetch_distance(o, within(arena(best))), best);
  EXPECT_LT(choose_prefetch_distance(o, within(arena(best) - 1)), best);
  EXPECT_EQ(choose_prefetch_distance(o, within(arena(1))), 1);
}

TEST(PrefetchDistance, IsOneWhereMoreGainsNothing) {
  EXPECT_EQ(choose_prefetch_distance(sharded_options(cluster_of(0, 1e15)), always), 1) << "gathers take no time";
  ProgramOptions o = sharded_options(cluster_of(1e-4, 3e6));
  o.costs = nullptr;
  EXPECT_EQ(choose_prefetch_distance(o, always), 1);
  o = sharded_options(cluster_of(1e-4, 3e6));
  o.zero = 2;
  EXPECT_EQ(choose_prefetch_distance(o, always), 1);
}

// Two ranks on a node, links between nodes a hundred times slower than inside.
ClusterDescription two_levels(double between_bytes_per_s) {
  ClusterDescription c = cluster_of(1e-6, 1e9);
  c.devices_per_node = 2;
  c.between = {1e-5, between_bytes_per_s};
  return c;
}

ProgramOptions replica_options(const ClusterDescription& cluster) {
  ProgramOptions o = tiny_options(ModelFamily::Gpt2);
  o.mesh.data = 4;
  o.mesh.shards = 2;
  o.hierarchical = true;
  o.costs = std::make_shared<DescribedCosts>(cluster);
  return o;
}

TEST(HierarchicalSums, AreChosenWhereTheyAreFaster) {
  EXPECT_TRUE(choose_hierarchical(replica_options(two_levels(1e7)), always));
  EXPECT_FALSE(choose_hierarchical(replica_options(two_levels(1e7)), [](const ProgramOptions&) { return false; }));
  EXPECT_FALSE(choose_hierarchical(replica_options(cluster_of(1e-3, 1e12)), always)) << "no link is faster";
  const Programs programs = build_programs(replica_options(two_levels(1e7)));
  ASSERT_TRUE(programs.buckets && programs.buckets->flat);
  EXPECT_EQ(programs.buckets->node_ranks, 2);
  EXPECT_LT(programs.buckets->chosen->end_s, programs.buckets->flat->end_s);
  std::vector<std::int64_t> inside, between;
  for (const CollectiveCall& c : collectives(programs.graph("train"))) {
    if (c.label.find(".bucket") == std::string::npos) continue;
    EXPECT_NE(c.axis, "data");
    if (c.kind == CollectiveKind::ReduceScatter) inside.push_back(c.bytes());
    if (c.kind == CollectiveKind::AllReduce) between.push_back(2 * c.bytes());
  }
  EXPECT_EQ(inside, programs.buckets->bytes);
  EXPECT_EQ(between, programs.buckets->bytes);
}

TEST(HierarchicalSums, NodesHoldDivisorsOfTheReplicas) {
  EXPECT_EQ(node_replicas({.data = 4}, 2, DType::f32), 2);
  EXPECT_EQ(node_replicas({.data = 4}, 4, DType::f32), 1) << "one node";
  EXPECT_EQ(node_replicas({.data = 8}, 4, DType::f32), 4);
  EXPECT_EQ(node_replicas({.data = 4, .tensor = 2}, 4, DType::f32), 2);
  EXPECT_EQ(node_replicas({.data = 4, .tensor = 4}, 4, DType::f32), 1) << "one replica on a node";
  EXPECT_EQ(node_replicas({.data = 6}, 4, DType::f32), 2);
  EXPECT_EQ(node_replicas({.data = 64}, 32, DType::f64), 8) << "shares are whole cache lines";
  EXPECT_EQ(node_replicas({.data = 3}, 2, DType::f32), 1);
}

class AutomaticRun : public testing::Test {
 protected:
  AutomaticRun() {
    write_tiny_data(folder_);
    write("cluster.yaml", write_cluster(kBalanced, "# of a test\n"));
  }
  void write(const std::string& name, const std::string& text) { std::ofstream(folder_ / name) << text; }
  Config config(std::vector<std::string> overrides, bool cluster = true, int ranks = 2) {
    if (cluster) overrides.push_back("comm.cluster=" + (folder_ / "cluster.yaml").string());
    Config c = tiny_config(folder_, "run", overrides);
    check_for_ranks(c, ranks);
    return c;
  }
  static ProgramOptions options(const Config& config, int rank = 0) {
    return choose_programs(config, {rank, 2, rank, 2}, Purpose::Train, 0, 0);
  }
  TempFolder folder_;
};

TEST_F(AutomaticRun, ChunksFollowTheClusterAndAreReported) {
  EXPECT_EQ(config({}).parallel.tensor_chunks, 1) << "the default";
  const Config chunked = config({"parallel.tensor=2", "parallel.sequence=false", "parallel.tensor_chunks=auto"});
  const ProgramOptions o = options(chunked);
  EXPECT_GT(o.tensor_chunks, 1);
  EXPECT_EQ(options(chunked, 1).tensor_chunks, o.tensor_chunks);
  EXPECT_EQ(options(config({"parallel.tensor=2", "parallel.tensor_chunks=auto"}, false)).tensor_chunks, 1);
  const std::vector<RankRole> roles = rank_roles(o);
  const nlohmann::json json = plan_json(roles, {0, 0, "", 2});
  EXPECT_EQ(json["mesh"]["tensor_chunks"], o.tensor_chunks);
  EXPECT_EQ(json["split_linears"]["chunks"], o.tensor_chunks);
  EXPECT_GT(json["split_linears"]["gain_ms"].get<double>(), 0);
  EXPECT_NE(
      plan_text(roles, {0, 0, "", 2}, nullptr).find(fmt::format("linears in {} chunks, predicted", o.tensor_chunks)),
      std::string::npos);
}

TEST_F(AutomaticRun, PrefetchFollowsTheClusterAndTheBudget) {
  write("cluster.yaml", write_cluster(cluster_of(1e-4, 6e5), "# of a test\n"));
  const Config c = config({"parallel.zero=3", "model.layers=6"});
  const ProgramOptions o = options(c);
  EXPECT_GT(o.prefetch, 1);
  EXPECT_EQ(options(config({"parallel.zero=3", "model.layers=6", "comm.prefetch=0"})).prefetch, 0);
  EXPECT_EQ(options(config({"parallel.zero=3", "model.layers=6"}, false)).prefetch, 1);
  ProgramOptions one = o;
  one.prefetch = 1;
  const std::int64_t least = build_programs(one).plan.total_bytes;
  EXPECT_EQ(choose_programs(c, {0, 2, 0, 2}, Purpose::Train, least, 0).prefetch, 1);
  const std::vector<RankRole> roles = rank_roles(o);
  const nlohmann::json json = plan_json(roles, {0, 0, "", 2})["gathers"];
  EXPECT_EQ(json["distance"], o.prefetch);
  EXPECT_GT(json["usual"]["gain_ms"].get<double>(), 0);
  EXPECT_NE(plan_text(roles, {0, 0, "", 2}, nullptr).find(fmt::format("gathered {} use(s) ahead", o.prefetch)),
            std::string::npos);
}

TEST_F(AutomaticRun, HierarchicalSumsAreReportedAndKept) {
  write("cluster.yaml", write_cluster(two_levels(1e7), "# of a test\n"));
  const auto options_of_4 = [](const Config& c) { return choose_programs(c, {0, 4, 0, 4}, Purpose::Train, 0, 0); };
  const auto four = [&](std::vector<std::string> overrides) {
    overrides.push_back("train.micro_batch=1");
    return config(std::move(overrides), true, 4);
  };
  Config c = four({});
  const ProgramOptions o = options_of_4(c);
  EXPECT_TRUE(o.hierarchical);
  EXPECT_EQ(o.mesh.shards, 2);
  EXPECT_FALSE(options_of_4(four({"comm.hierarchical=off"})).hierarchical);
  const std::vector<RankRole> roles = rank_roles(o);
  const nlohmann::json json = plan_json(roles, {0, 0, "", 4});
  EXPECT_EQ(json["buckets"]["node_ranks"], 2);
  EXPECT_GT(json["buckets"]["flat"]["gain_ms"].get<double>(), 0);
  EXPECT_NE(plan_text(roles, {0, 0, "", 4}, nullptr).find("inside nodes of 2 replicas first"), std::string::npos);
  // The order of sums is that of the first part of the run, whatever links are like now.
  std::filesystem::create_directories(folder_ / "run/checkpoints");
  write("run/plan.json", json.dump());
  write("cluster.yaml", write_cluster(cluster_of(1e-3, 1e12), "# one node\n"));
  EXPECT_FALSE(options_of_4(c).hierarchical);
  keep_plan_choices(c, 4);
  EXPECT_TRUE(options_of_4(c).hierarchical);
  EXPECT_EQ(options_of_4(c).mesh.shards, 2);
  Config flat = four({"comm.hierarchical=off"});
  write("run/plan.json", plan_json(rank_roles(options_of_4(flat)), {0, 0, "", 4}).dump());
  write("cluster.yaml", write_cluster(two_levels(1e7), "# two levels\n"));
  Config again = four({});
  keep_plan_choices(again, 4);
  EXPECT_FALSE(options_of_4(again).hierarchical);
  const Config asked = four({"comm.hierarchical=on", "parallel.tensor=2"});
  try {
    options_of_4(asked);
    FAIL() << "a replica fills a node";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Config);
    EXPECT_NE(std::string(error.what()).find("comm.hierarchical"), std::string::npos) << error.what();
  }
}

TEST(StageMessages, AreOnePieceInTheReport) {
  ProgramOptions o = tiny_options(ModelFamily::Gpt2);
  o.mesh.pipeline = 2;
  o.micro_batches = 2;
  const std::vector<RankRole> roles = rank_roles(o);
  const std::int64_t bytes = o.micro_batch * o.sequence * o.model.hidden * 4;
  EXPECT_EQ(plan_json(roles, {0, 0, "", 2})["stage_message"], (nlohmann::json{{"bytes", bytes}, {"pieces", 1}}));
  EXPECT_NE(plan_text(roles, {0, 0, "", 2}, nullptr).find("each in one piece"), std::string::npos);
}

// Links that are measured anew must not change the bits of a run.
TEST_F(AutomaticRun, ResumedRunKeepsItsChunks) {
  Config chunked = config({"parallel.tensor=2", "parallel.sequence=false", "parallel.tensor_chunks=auto"});
  std::filesystem::create_directories(folder_ / "run/checkpoints");
  write("run/plan.json", plan_json(rank_roles(options(chunked)), {0, 0, "", 2}).dump());
  const int chosen = options(chunked).tensor_chunks;
  write("cluster.yaml", write_cluster(cluster_of(1, 1e12), "# slow\n"));
  EXPECT_EQ(options(chunked).tensor_chunks, 1);
  keep_plan_choices(chunked, 2);
  EXPECT_EQ(options(chunked).tensor_chunks, chosen);
}

}  // namespace
}  // namespace plimsoll
