// The kernel profile: what tells nodes apart, the file, and costs from measurements with a description behind them.

#include "runtime/plan/kernel_profile.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "runtime/core/error.hpp"
#include "runtime/graph/autodiff.hpp"
#include "runtime/model/transformer.hpp"
#include "tests/support/temp_folder.hpp"

namespace plimsoll {
namespace {

using namespace test;

ModelConfig model_of(std::int64_t layers) {
  ModelConfig m = family_defaults(ModelFamily::Llama);
  m.layers = layers;
  m.hidden = 64;
  m.heads = 4;
  m.kv_heads = 2;
  m.ffn = 128;
  m.vocabulary = 1000;
  m.positions = 256;
  return resolve(m);
}

Graph graph_of(std::int64_t layers, std::int64_t batch = 2) {
  Graph graph = build_transformer(model_of(layers), {batch, 128});
  add_backward(graph);
  return graph;
}

std::set<std::string> keys_of(const Graph& graph) {
  std::set<std::string> keys;
  for (const Node& node : graph.nodes) keys.insert(kernel_key(node));
  return keys;
}

TEST(KernelKey, LayersAreAlikeShapesPhasesAndOpsAreNot) {
  const auto two = keys_of(graph_of(2)), six = keys_of(graph_of(6)), wider = keys_of(graph_of(2, 4));
  EXPECT_EQ(two, six);
  EXPECT_GT(two.size(), 20U);
  std::set<std::string> shared;
  std::set_intersection(two.begin(), two.end(), wider.begin(), wider.end(), std::inserter(shared, shared.end()));
  EXPECT_TRUE(shared.empty());
  Graph graph = graph_of(1);
  for (Node& node : graph.nodes) {
    if (node.op != op_id<Linear>) continue;
    const std::string before = kernel_key(node);
    auto& attrs = std::get<op_id<Linear>>(node.attrs);
    attrs.weight_in_out = !attrs.weight_in_out;
    EXPECT_NE(kernel_key(node), before);
  }
}

// Of wide heads another GPU has other kernels; of all others the keys of older profiles hold.
TEST(KernelKey, WideHeadsAreTimedByWhatComputesThem) {
  Graph graph = graph_of(1);
  for (Node& node : graph.nodes) {
    if (node.op != op_id<Attention>) continue;
    auto& attrs = std::get<op_id<Attention>>(node.attrs);
    for (const int head_dim : {128, 192}) {
      attrs.layout.head_dim = head_dim;
      attrs.fused_heads = {};
      const std::string before = kernel_key(node);
      attrs.fused_heads = {256, 128};
      EXPECT_EQ(kernel_key(node) == before, head_dim == 128);
      attrs.fused_heads = {0, 0};
      EXPECT_NE(kernel_key(node), before) << "no library";
    }
  }
}

// Counts what it is asked for.
class FakeTimer : public NodeTimer {
 public:
  explicit FakeTimer(OpId refused = UINT16_MAX) : refused_(refused) {}
  std::optional<double> node_seconds(const Graph&, const Node& node) override {
    ++asked;
    if (node.op == refused_) return std::nullopt;
    return 1.0 + node.op;
  }
  std::optional<double> memory_seconds_per_byte() override {
    ++asked;
    return 0.5;
  }
  std::optional<MeasuredLink> link(LinkOperation operation) override {
    ++asked_links;
    if (operation == LinkOperation::AllGather) return std::nullopt;
    return MeasuredLink{"world", operation, 4, 1, {1024, 2048}, {0.25, 0.5}, 0.125};
  }
  int asked_links = 0;
  int asked = 0;

 private:
  OpId refused_;
};

TEST(ProfiledCosts, EachKindOfNodeIsMeasuredOnce) {
  const DescribedCosts described{ClusterDescription{}};
  FakeTimer timer;
  const ProfiledCosts costs(described, {}, &timer);
  const Graph graph = graph_of(6);
  for (const Node& node : graph.nodes) EXPECT_EQ(costs.node_seconds(graph, node), 1.0 + node.op);
  EXPECT_EQ(timer.asked, std::ssize(keys_of(graph)));
  EXPECT_EQ(costs.coverage().measured, timer.asked);
  EXPECT_EQ(costs.coverage().described, 0);
  EXPECT_TRUE(costs.grew());
  EXPECT_EQ(costs.memory_seconds(8), 4);
  EXPECT_EQ(costs.memory_seconds(2), 1);

  FakeTimer unused;
  const ProfiledCosts known(described, costs.profile(), &unused);
  for (const Node& node : graph.nodes) EXPECT_EQ(known.node_seconds(graph, node), 1.0 + node.op);
  EXPECT_EQ(known.memory_seconds(8), 4);
  EXPECT_EQ(unused.asked, 0);
  EXPECT_FALSE(known.grew());
}

// All processes take what was measured, fewer of them in proportion; what cannot be measured is as described.
TEST(ProfiledCosts, CollectivesOfAllProcessesAreMeasuredOnce) {
  const DescribedCosts described{ClusterDescription{}};
  FakeTimer timer;
  const ProfiledCosts costs(described, {}, &timer, 4);
  using Kind = CollectiveKind;
  EXPECT_DOUBLE_EQ(costs.collective_seconds(Kind::AllReduce, 2048, 4, 1), 0.5);
  EXPECT_DOUBLE_EQ(costs.collective_seconds(Kind::AllReduce, 1024, 4, 1), 0.25);
  EXPECT_EQ(costs.collective_slows(Kind::AllReduce, 4, 1), 0.125);
  EXPECT_EQ(costs.collective_slows(Kind::AllReduce, 1, 1), 0) << "nobody to talk to";
  EXPECT_EQ(costs.collective_slows(Kind::AllGather, 4, 1), 0) << "was not measured";
  const double longer = 0.5 / described.collective_seconds(Kind::AllReduce, 2048, 4, 1);
  EXPECT_DOUBLE_EQ(costs.collective_seconds(Kind::AllReduce, 2048, 2, 2),
                   longer * described.collective_seconds(Kind::AllReduce, 2048, 2, 2));
  EXPECT_EQ(costs.collective_seconds(Kind::AllReduce, 2048, 1, 1), 0);
  for (int twice = 0; twice < 2; ++twice)
    EXPECT_EQ(costs.collective_seconds(Kind::AllGather, 2048, 4, 1),
              described.collective_seconds(Kind::AllGather, 2048, 4, 1));
  EXPECT_EQ(timer.asked_links, 2);
  EXPECT_TRUE(costs.grew());

  const KernelProfile same = profile_of_text(profile_text(costs.profile()), 4);
  EXPECT_EQ(same, costs.profile());
  const ProfiledCosts known(described, same, nullptr, 4);
  EXPECT_DOUBLE_EQ(known.collective_seconds(Kind::AllReduce, 2048, 4, 1), 0.5);
  EXPECT_EQ(known.collective_seconds(Kind::ReduceScatter, 2048, 4, 1),
            described.collective_seconds(Kind::ReduceScatter, 2048, 4, 1));
}

// Of an op that is slower than described, another shape is slower by as much; of an op of which nothing was measured,
// the description counts. What the timer refused is asked for once.
TEST(ProfiledCosts, BehindMeasurementsStandsTheDescription) {
  const DescribedCosts described{ClusterDescription{}};
  const Graph small = graph_of(1, 1), large = graph_of(1, 2);
  KernelProfile profile;
  for (const Node& node : small.nodes) {
    if (node.op == op_id<Linear>) profile.seconds[kernel_key(node)] = 3 * described.node_seconds(small, node);
  }
  FakeTimer timer(op_id<Linear>);
  const ProfiledCosts costs(described, profile, nullptr);
  for (const Node& node : small.nodes) costs.node_seconds(small, node);
  for (const Node& node : large.nodes) {
    const double factor = node.op == op_id<Linear> ? 3 : 1;
    EXPECT_NEAR(costs.node_seconds(large, node) / described.node_seconds(large, node), factor, 1e-9);
  }
  const ProfiledCosts refused(described, {}, &timer);
  for (int twice = 0; twice < 2; ++twice) {
    for (const Node& node : large.nodes) {
      if (node.op != op_id<Linear>) continue;
      EXPECT_EQ(refused.node_seconds(large, node), described.node_seconds(large, node));
    }
  }
  EXPECT_EQ(timer.asked, refused.coverage().described);
  EXPECT_FALSE(refused.grew());
}

KernelProfile profile_of(double seconds, int processes) {
  return {{{"a", seconds}, {"b \"c\"", 2 * seconds}},
          1e-10,
          {{"world", LinkOperation::ReduceScatter, processes, 1, {1024, 4096}, {seconds, 3 * seconds}}}};
}

TEST(KernelProfileFile, KeepsOneProfileForEachNumberOfThreadsAndProcesses) {
  const TempFolder folder;
  const auto file = folder / "deep/er/kernels.json";
  const ProfileOwner one{"cpu", "build", 1, 2}, two{"cpu", "build", 2, 1};
  EXPECT_EQ(read_kernel_profile(file, one, true), KernelProfile{});
  ASSERT_TRUE(write_kernel_profile(file, one, profile_of(0.25, 2)));
  ASSERT_TRUE(write_kernel_profile(file, two, profile_of(1e-7, 1)));
  EXPECT_EQ(read_kernel_profile(file, one, true), profile_of(0.25, 2));
  EXPECT_EQ(read_kernel_profile(file, two, true), profile_of(1e-7, 1));
  EXPECT_EQ(read_kernel_profile(file, {"cpu", "build", 2, 2}, true), KernelProfile{});
  // Devices of the same machine are beside them.
  const ProfileOwner gpu{"cpu", "build", 1, 2, "a GPU, its libraries"};
  EXPECT_EQ(read_kernel_profile(file, gpu, true), KernelProfile{});
  ASSERT_TRUE(write_kernel_profile(file, gpu, profile_of(3e-6, 2)));
  EXPECT_EQ(read_kernel_profile(file, gpu, true), profile_of(3e-6, 2));
  EXPECT_EQ(read_kernel_profile(file, one, true), profile_of(0.25, 2));
  // Nothing is left beside it.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(file.parent_path()), {}), 1);
  EXPECT_FALSE(write_kernel_profile(folder / "", one, profile_of(1, 2)));
}

std::string fault_of(const std::filesystem::path& file, const ProfileOwner& owner) {
  try {
    read_kernel_profile(file, owner, true);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Config);
    return error.what();
  }
  return "";
}

TEST(KernelProfileFile, OfAnotherCpuOrBuildOrBrokenItIsRefusedOrMeasuredAnew) {
  const TempFolder folder;
  const auto file = folder / "kernels.json";
  const ProfileOwner mine{"cpu", "build", 1, 1};
  ASSERT_TRUE(write_kernel_profile(file, mine, profile_of(0.25, 1)));
  const std::string good = read_text(file);
  EXPECT_NE(fault_of(file, {"other cpu", "build"}).find("another CPU ('cpu', this is 'other cpu')"), std::string::npos);
  EXPECT_NE(fault_of(file, {"cpu", "later"}).find("another build (build, this is later)"), std::string::npos);
  EXPECT_EQ(read_kernel_profile(file, {"cpu", "later"}, false), KernelProfile{});
  for (const std::string& bad :
       {std::string("{"), std::string("[]"), std::string(), good.substr(0, good.size() / 2),
        std::string(R"({"format": 3, "cpu": "cpu", "build": "build", "profiles": {}})"),
        std::string(R"({"format": 2, "cpu": "cpu", "build": "build", "profiles": []})"),
        std::string(R"({"format": 2, "cpu": 3, "build": "build", "profiles": {}})"),
        std::string(R"({"format": 2, "cpu": "cpu", "build": "build", "profiles": {"1 x 1": {}}})"),
        std::string(R"({"format": 2, "cpu": "cpu", "build": "build",
                        "profiles": {"1 x 1": {"seconds": {"a": -1}, "memory_seconds_per_byte": 0}}})"),
        std::string(R"({"format": 2, "cpu": "cpu", "build": "build",
                        "profiles": {"1 x 1": {"seconds": {"a": "x"}, "memory_seconds_per_byte": 0}}})"),
        std::string(R"({"format": 2, "cpu": "cpu", "build": "build",
                        "profiles": {"1 x 1": {"seconds": {}, "memory_seconds_per_byte": 0, "links": [
                        {"operation": "all_reduce", "bytes": [8, 8], "seconds": [1, 2]}]}}})"),
        std::string(R"({"format": 2, "cpu": "cpu", "build": "build",
                        "profiles": {"1 x 1": {"seconds": {}, "memory_seconds_per_byte": 0, "links": [
                        {"operation": "shout", "bytes": [8], "seconds": [1]}]}}})")}) {
    write_text(file, bad);
    EXPECT_NE(fault_of(file, mine).find("kernels.json: "), std::string::npos) << bad;
    EXPECT_EQ(read_kernel_profile(file, mine, false), KernelProfile{}) << bad;
    // Measured anew, it is whole again.
    ASSERT_TRUE(write_kernel_profile(file, mine, profile_of(0.5, 1)));
    EXPECT_EQ(read_kernel_profile(file, mine, true), profile_of(0.5, 1));
  }
}

}  // namespace
}  // namespace plimsoll
