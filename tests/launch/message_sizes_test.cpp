// What `auto` chooses for messages by the links of a description, and that it is kept.

#include "launch/message_sizes.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

#include "launch/cluster_file.hpp"
#include "launch/plan_file.hpp"
#include "launch/plan_report.hpp"
#include "launch/run_setup.hpp"
#include "parallel/overlap.hpp"
#include "tests/launch/described_links.hpp"
#include "tests/launch/tiny_run.hpp"

namespace plimsoll {
namespace {

using namespace test;

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

// Collectives as a kernel profile of two processes has them: lines of this latency and bandwidth.
std::shared_ptr<const ProfiledCosts> measured_links(const ClusterDescription& cluster, int processes = 2) {
  static const DescribedCosts described(cluster);  // of nodes: those of the first caller
  KernelProfile profile;
  for (const LinkOperation operation :
       {LinkOperation::ReduceScatter, LinkOperation::AllGather, LinkOperation::AllReduce}) {
    MeasuredLink& link = profile.links.emplace_back();
    link.operation = operation;
    link.ranks = processes;
    for (std::int64_t bytes = 1024; bytes <= 1 << 20; bytes *= 2) {
      link.bytes.push_back(bytes);
      link.seconds.push_back(cluster.inside.latency_s + static_cast<double>(bytes) / cluster.inside.bytes_per_s);
    }
  }
  return std::make_shared<const ProfiledCosts>(described, std::move(profile), nullptr, processes);
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
  static ProgramOptions options(const Config& config, int rank = 0,
                                std::shared_ptr<const ProfiledCosts> measured = nullptr) {
    return choose_programs(config, {rank, 2, rank, 2}, Purpose::Train, 0, 0, kNoHostLimit, nullptr,
                           std::move(measured));
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

TEST_F(AutomaticRun, JoinedGathersFollowTheClusterAndAreReported) {
  write("cluster.yaml", write_cluster(kLatent, "# of a test\n"));
  const auto sharded = [&](const std::string& more) {
    return options(config({"parallel.zero=3", "model.layers=6", more}));
  };
  const ProgramOptions o = sharded("comm.gather=auto");
  EXPECT_GT(o.gather_bytes, 0);
  EXPECT_EQ(sharded("comm.gather=0").gather_bytes, 0);
  const ProgramOptions fixed = sharded("comm.gather=64KiB");
  EXPECT_EQ(fixed.gather_bytes, 65536);
  EXPECT_FALSE(fixed.gather_by_links);
  EXPECT_EQ(options(config({"parallel.zero=3"}, false)).gather_bytes, 0) << "nobody knows the links";
  const std::vector<RankRole> roles = rank_roles(o);
  const nlohmann::json json = plan_json(roles, {0, 0, "", 2})["gathers"];
  EXPECT_EQ(json["most_bytes"], o.gather_bytes);
  EXPECT_LT(json["gathers"], json["uses"]);
  EXPECT_GT(json["apart"]["gain_ms"].get<double>(), 0);
  EXPECT_NE(plan_text(roles, {0, 0, "", 2}, nullptr).find("each unit by itself: "), std::string::npos);
}

TEST_F(AutomaticRun, UnitBucketsFollowTheClusterAndAreReported) {
  write("cluster.yaml", write_cluster(kLatent, "# of a test\n"));
  for (const std::string zero : {"1", "2", "3"}) {
    SCOPED_TRACE(zero);
    const auto divided = [&](const std::string& more, bool cluster = true) {
      return options(config({"parallel.zero=" + zero, "model.layers=6", more}, cluster));
    };
    const ProgramOptions o = divided("comm.bucket=auto");
    EXPECT_GT(o.unit_bucket_bytes, 0);
    const ProgramOptions fixed = divided("comm.bucket=64KiB");
    EXPECT_EQ(fixed.bucket_bytes, 65536);
    EXPECT_EQ(fixed.unit_bucket_bytes, 0);
    EXPECT_EQ(divided("comm.bucket=auto", false).unit_bucket_bytes, 0) << "nobody knows the links";
    const std::vector<RankRole> roles = rank_roles(o);
    const nlohmann::json json = plan_json(roles, {0, 0, "", 2})["buckets"];
    EXPECT_LT(json["bytes"].size(), 8U);
    EXPECT_EQ(json["apart"]["buckets"], 8);
    EXPECT_GT(json["apart"]["gain_ms"].get<double>(), 0);
    EXPECT_EQ(json["times_of"], zero == "1" ? "step" : "micro_batch");
    for (const char* other : {"best", "fixed", "one"}) EXPECT_TRUE(json[other].contains("gain_ms")) << other;
    const std::string text = plan_text(roles, {0, 0, "", 2}, nullptr);
    EXPECT_NE(text.find(fmt::format("gradients in {} bucket(s) of ", json["bytes"].size())), std::string::npos) << text;
    EXPECT_NE(text.find("each unit by itself: "), std::string::npos) << text;
  }
  // A budget that has no room for them leaves each unit by itself.
  const Config c = config({"parallel.zero=2", "model.layers=6"});
  const ProgramOptions joined = options(c);
  ProgramOptions apart = joined;
  apart.unit_bucket_bytes = 0;
  const std::int64_t least = build_programs(apart).plan.total_bytes;
  const auto within = [&](std::int64_t bytes) {
    return choose_programs(c, {0, 2, 0, 2}, Purpose::Train, bytes, 0).unit_bucket_bytes;
  };
  EXPECT_GT(build_programs(joined).plan.total_bytes, least);
  EXPECT_EQ(within(least), 0);
  EXPECT_EQ(within(build_programs(joined).plan.total_bytes), joined.unit_bucket_bytes);
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

TEST_F(AutomaticRun, OutputsOfStagesGoInPartsWhereThatIsFaster) {
  write("cluster.yaml", write_cluster(cluster_of(1e-6, 4e6), "# of a test\n"));
  const auto staged = [&](const std::string& parts) {
    return options(config({"parallel.pipeline=2", "train.micro_batch=1", "comm.pipeline_chunks=" + parts}));
  };
  EXPECT_EQ(options(config({"parallel.pipeline=2"})).pipeline_chunks, 1) << "the default";
  EXPECT_EQ(staged("4").pipeline_chunks, 4);
  const ProgramOptions o = staged("auto");
  EXPECT_GT(o.pipeline_chunks, 1);
  ASSERT_TRUE(o.pipeline_choice);
  EXPECT_GT(o.pipeline_choice->gain_s(), 0);
  const std::vector<RankRole> roles = rank_roles(o);
  const nlohmann::json json = plan_json(roles, {0, 0, "", 2})["stage_message"];
  EXPECT_EQ(json["pieces"], o.pipeline_chunks);
  EXPECT_GT(json["gain_ms"].get<double>(), 0);
  EXPECT_NE(plan_text(roles, {0, 0, "", 2}, nullptr).find(fmt::format("outputs in {} parts", o.pipeline_chunks)),
            std::string::npos);
  write("cluster.yaml", write_cluster(cluster_of(1, 1e12), "# slow\n"));
  EXPECT_EQ(staged("auto").pipeline_chunks, 1) << "each message costs a second";
  Config c = config({"parallel.pipeline=2", "train.micro_batch=1", "comm.pipeline_chunks=auto"});
  std::filesystem::create_directories(folder_ / "run/checkpoints");
  write("run/plan.json", plan_json(roles, {0, 0, "", 2}).dump());
  keep_plan_choices(c, 2);
  EXPECT_EQ(options(c).pipeline_chunks, o.pipeline_chunks) << "a resumed run goes on with them";
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

// Without a description the links are those that the profile measured, on all ranks alike.
TEST_F(AutomaticRun, LinksOfTheProfileServeWhereNoClusterIsNamed) {
  const auto slow = measured_links(cluster_of(1, 1e12)), fast = measured_links(cluster_of(0, 1e8)),
             balanced = measured_links(cluster_of(1e-4, 6e5));
  const Config data = config({"model.layers=6"}, false);
  const auto buckets = [&](const std::shared_ptr<const ProfiledCosts>& links, int rank) {
    const ProgramOptions o = options(data, rank, links);
    EXPECT_EQ(o.links, LinkSource::Profile);
    return *build_programs(o).buckets;
  };
  EXPECT_EQ(buckets(slow, 0).bytes.size(), 1U);
  EXPECT_GT(buckets(fast, 0).bytes.size(), 1U);
  EXPECT_EQ(buckets(fast, 0).bytes, buckets(fast, 1).bytes);
  const ProgramOptions fixed = options(data);
  EXPECT_EQ(fixed.links, LinkSource::None);
  EXPECT_EQ(build_programs(fixed).plan.total_bytes, build_programs(options(data, 0, fast)).plan.total_bytes);
  const Config sharded = config({"parallel.zero=3", "model.layers=6", "comm.gather=0"}, false);
  EXPECT_GT(options(sharded, 0, balanced).prefetch, 1);
  EXPECT_EQ(options(sharded).prefetch, 1);
  const Config split = config({"parallel.tensor=2", "parallel.sequence=false", "parallel.tensor_chunks=auto"}, false);
  EXPECT_GT(options(split, 0, measured_links(kBalanced)).tensor_chunks, 1);
  EXPECT_EQ(options(split, 0, slow).tensor_chunks, 1);
  EXPECT_EQ(options(config({}), 0, slow).links, LinkSource::Cluster) << "what is named goes first";
}

TEST_F(AutomaticRun, ProfilesThatDoNotCoverTheRunChangeNothing) {
  const auto links = measured_links(cluster_of(0, 1e8));
  const DescribedCosts described{ClusterDescription{}};
  const Config data = config({"model.layers=6"}, false);
  EXPECT_EQ(options(data, 0, std::make_shared<const ProfiledCosts>(described, KernelProfile{}, nullptr, 2)).links,
            LinkSource::None)
      << "it has no collective";
  EXPECT_EQ(options(data, 0, std::make_shared<const ProfiledCosts>(described, links->profile(), nullptr)).links,
            LinkSource::None)
      << "the ranks are on several hosts";
  EXPECT_EQ(options(config({"parallel.zero=1"}, false), 0, links).links, LinkSource::Profile);
  EXPECT_EQ(options(config({"parallel.zero=1", "comm.bucket=1MiB"}, false), 0, links).links, LinkSource::None)
      << "nothing is left to be sized";
  EXPECT_EQ(options(config({"parallel.tensor=2"}, false), 0, links).links, LinkSource::None) << "nor are one chunk";
  const std::int64_t needed = build_programs(options(data)).plan.total_bytes;
  const auto within = [&](std::int64_t bytes) {
    return choose_programs(data, {0, 2, 0, 2}, Purpose::Train, bytes, 0, kNoHostLimit, nullptr, links).links;
  };
  EXPECT_EQ(within(needed), LinkSource::Profile);
  EXPECT_EQ(within(1000), LinkSource::None) << "a run that does not fit";
}

TEST_F(AutomaticRun, ThePlanSaysWhoseLinksItTook) {
  const Config data = config({"model.layers=6"}, false);
  const auto say = [&](const ProgramOptions& o, const char* name, const char* words) {
    const std::vector<RankRole> roles = rank_roles(o);
    EXPECT_EQ(plan_json(roles, {0, 0, "", 2})["links"], name);
    EXPECT_NE(plan_text(roles, {0, 0, "", 2}, nullptr).find(words), std::string::npos) << words;
  };
  say(options(data), "none", "messages are sized as usual");
  say(options(data, 0, measured_links(kBalanced)), "profile",
      "messages are sized by the links that the kernel profile");
  say(options(config({"model.layers=6"})), "cluster", "messages are sized by the links of comm.cluster");
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
