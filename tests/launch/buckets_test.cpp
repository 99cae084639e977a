// Which gradients are summed at once: by bytes, and by what the links of a description take.

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include <nlohmann/json.hpp>

#include "launch/plan_report.hpp"
#include "launch/roles.hpp"
#include "parallel/data.hpp"
#include "parallel/nodes.hpp"
#include "runtime/graph/autodiff.hpp"
#include "tests/launch/tiny_run.hpp"

namespace plimsoll {
namespace {

using namespace test;

ProgramOptions options_of(ModelFamily family, int ranks) {
  ProgramOptions o = tiny_options(family);
  o.model.layers = 6;
  o.mesh.data = o.mesh.shards = ranks;
  return o;
}

// Costs of a slow device with links as described.
std::shared_ptr<const CostModel> costs_of(double latency_s, double bytes_per_s) {
  ClusterDescription c;
  c.inside = c.between = {latency_s, bytes_per_s};
  c.device.kernel_overhead_s = 0;
  c.device.matmul.fp32 = c.device.attention.fp32 = 1e8;
  return std::make_shared<DescribedCosts>(c);
}

std::int64_t gradient_bytes(const Programs& p) { return p.plan.region("gradients").bytes; }

TEST(GradientItems, CoverTheFlatBufferInItsOrder) {
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    ProgramOptions o = options_of(family, 2);
    Graph graph = build_transformer(o.model, {2, o.sequence});
    add_backward(graph);
    const FlatLayout layout = flat_layout(graph);
    const std::vector<GradientRange> items = gradient_items(graph, layout);
    EXPECT_GT(items.size(), layout.units.size()) << "several of a layer";
    std::int64_t end = 0;
    for (const GradientRange& item : items) {
      EXPECT_EQ(item.offset, end);
      EXPECT_GT(item.elements, 0);
      EXPECT_LT(item.ready_after, graph.nodes.size());
      end += item.elements;
    }
    EXPECT_EQ(end, layout.elements);
    // No gradient of an item is written after it is said to be ready, and the last of them is written there.
    const std::vector<std::size_t> last = last_writes(graph);
    for (const GradientRange& item : items) {
      std::size_t ready = 0;
      for (std::size_t p = 0; p < graph.parameters.size(); ++p) {
        if (layout.offset[p] < item.offset || layout.offset[p] >= item.offset + item.elements) continue;
        ready = std::max(ready, last[static_cast<std::size_t>(graph.parameters[p].gradient)]);
      }
      EXPECT_EQ(item.ready_after, ready);
    }
  }
}

TEST(GradientBuckets, BytesDecideWhereTheyAreGiven) {
  ProgramOptions o = options_of(ModelFamily::Gpt2, 2);
  const Programs whole = build_programs(o);
  ASSERT_TRUE(whole.buckets);
  EXPECT_EQ(whole.buckets->bytes, std::vector<std::int64_t>{gradient_bytes(whole)}) << "25 MiB hold the tiny model";
  EXPECT_FALSE(whole.buckets->chosen) << "nobody said what the links are like";
  o.bucket_bytes = 1;
  const Programs each = build_programs(o);
  EXPECT_GT(each.buckets->bytes.size(), 12U);
  for (const bool costs : {false, true}) {
    o.bucket_bytes = 8192;
    o.costs = costs ? costs_of(1e-3, 1e9) : nullptr;
    const std::vector<std::int64_t> bytes = build_programs(o).buckets->bytes;
    const std::int64_t largest = *std::max_element(each.buckets->bytes.begin(), each.buckets->bytes.end());
    for (const std::int64_t b : bytes) EXPECT_LE(b, std::max<std::int64_t>(8192, largest));
    EXPECT_EQ(std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0}), gradient_bytes(each));
  }
}

TEST(GradientBuckets, LinksDecideOtherwise) {
  ProgramOptions o = options_of(ModelFamily::Gpt2, 2);
  const auto buckets_with = [&](double latency_s, double bytes_per_s) {
    o.costs = costs_of(latency_s, bytes_per_s);
    return *build_programs(o).buckets;
  };
  // A message costs more than the whole step: one. Messages cost nothing: many, hidden behind backward.
  const GradientBuckets slow = buckets_with(1, 1e12), fast = buckets_with(0, 1e8);
  EXPECT_EQ(slow.bytes.size(), 1U);
  EXPECT_GT(fast.bytes.size(), 1U);
  for (const GradientBuckets& b : {slow, fast}) {
    ASSERT_TRUE(b.chosen && b.against);
    EXPECT_EQ(b.chosen->ends, b.against->best.ends);
    EXPECT_LE(b.chosen->end_s, b.against->fixed.end_s * (1 + 1e-9));
    EXPECT_LE(b.chosen->end_s, b.against->one.end_s * (1 + 1e-9));
  }
  EXPECT_LT(fast.chosen->exposed_s, 0.5 * fast.against->one.exposed_s);
}

// The program sums what the choice says, on every stage of a pipeline its own.
TEST(GradientBuckets, TheProgramHasThem) {
  for (const int stages : {1, 2}) {
    ProgramOptions o = options_of(ModelFamily::Llama, 2);
    o.mesh.pipeline = stages;
    o.micro_batches = 4;
    o.costs = costs_of(1e-5, 1e7);
    for (const RankRole& role : rank_roles(o)) {
      ASSERT_TRUE(role.programs.buckets);
      std::vector<std::int64_t> sent;
      for (const CollectiveCall& c : collectives(role.programs.graph("train"))) {
        if (c.label.starts_with("reduce.bucket")) sent.push_back(c.bytes());
      }
      EXPECT_EQ(sent, role.programs.buckets->bytes);
      EXPECT_GT(sent.size(), 1U);
    }
  }
}

// With ZeRO units are whole, and those of different pieces stay apart where each action of a pipeline sums its own.
TEST(GradientBuckets, OfUnitsAreWholeAndOfOneAction) {
  for (const int zero : {1, 2, 3}) {
    for (const ScheduleKind schedule : {ScheduleKind::OneFOneB, ScheduleKind::Interleaved, ScheduleKind::ZbH1}) {
      ProgramOptions o = options_of(ModelFamily::Llama, 2);
      o.model.layers = 8;
      o.zero = zero;
      o.mesh.pipeline = 2;
      o.schedule = schedule;
      o.chunks = schedule == ScheduleKind::Interleaved ? 2 : 1;
      o.micro_batches = 4;
      const std::size_t units = build_programs(o).layout.units.size();
      EXPECT_EQ(build_programs(o).buckets->bytes.size(), units) << "nobody knows the links";
      o.bucket_bytes = std::int64_t{1} << 40;
      const Programs joined = build_programs(o);
      if (zero == 1) {
        EXPECT_EQ(joined.buckets->bytes.size(), 1U);
      } else if (schedule == ScheduleKind::ZbH1) {  // the embedding's is no late half
        EXPECT_LE(joined.buckets->bytes.size(), 2U);
      } else {
        EXPECT_EQ(joined.buckets->bytes.size(), static_cast<std::size_t>(o.chunks));
      }
      EXPECT_FALSE(joined.buckets->chosen);
      std::vector<std::int64_t> sent;
      for (const CollectiveCall& c : collectives(joined.graph("train"))) {
        const bool middle = (c.when & static_cast<std::uint8_t>(zero == 1 ? Variant::Last : Variant::Middle)) != 0;
        if (c.kind == CollectiveKind::ReduceScatter && c.axis == "shard" && middle) sent.push_back(c.bytes());
      }
      std::sort(sent.begin(), sent.end());
      std::vector<std::int64_t> sized = joined.buckets->bytes;
      std::sort(sized.begin(), sized.end());
      EXPECT_EQ(sent, sized);
    }
  }
}

TEST(GradientBuckets, ThePlanReportsWhatTheyGain) {
  ProgramOptions o = options_of(ModelFamily::Gpt2, 2);
  o.costs = costs_of(1e-5, 1e7);
  const std::vector<RankRole> roles = rank_roles(o);
  const std::string text = plan_text(roles, {0, 0, "", 2}, nullptr);
  EXPECT_NE(text.find(fmt::format("gradients in {} bucket(s)", roles.front().programs.buckets->bytes.size())),
            std::string::npos)
      << text;
  const nlohmann::json json = plan_json(roles, {0, 0, "", 2})["buckets"];
  EXPECT_EQ(json["best"]["gain_ms"], 0);
  EXPECT_GE(json["fixed"]["gain_ms"].get<double>(), 0);
  EXPECT_GT(json["one"]["gain_ms"].get<double>(), 0);
  EXPECT_EQ(json["bytes"].get<std::vector<std::int64_t>>(), roles.front().programs.buckets->bytes);
}

}  // namespace
}  // namespace plimsoll
