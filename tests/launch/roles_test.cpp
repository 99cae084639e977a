// What `plan` says of a role is what every one of its ranks plans.

#include "launch/roles.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "launch/plan_report.hpp"
#include "runtime/core/text.hpp"
#include "tests/launch/tiny_run.hpp"

namespace plimsoll {
namespace {

using namespace test;

ProgramOptions options_of(ModelFamily family, const Mesh& mesh, int zero) {
  ProgramOptions o = tiny_options(family);
  o.model.layers = 4;
  o.model.vocabulary = 39;  // padded over two ranks and over four
  o.mesh = mesh;
  o.mesh.kv_copies = static_cast<int>(std::max<std::int64_t>(1, mesh.tensor / o.model.kv_heads));
  o.zero = zero;
  o.evaluate = true;
  o.micro_batches = 4;
  return o;
}

std::vector<std::pair<std::string, std::int64_t>> persistent_of(const MemoryPlan& plan) {
  std::vector<std::pair<std::string, std::int64_t>> all;
  for (const PersistentRegion& r : plan.persistent) all.emplace_back(r.name, r.bytes);
  return all;
}

TEST(RankRoles, EveryRankHasTheBytesOfItsRole) {
  int compared = 0;
  for (const ModelFamily family : {ModelFamily::Gpt2, ModelFamily::Llama}) {
    for (const Mesh& mesh :
         {Mesh{}, Mesh{.data = 3}, Mesh{.tensor = 4}, Mesh{.data = 2, .tensor = 2}, Mesh{.pipeline = 4},
          Mesh{.data = 3, .pipeline = 2}, Mesh{.data = 2, .pipeline = 2, .tensor = 2}}) {
      for (const int zero : {0, 1, 2, 3}) {
        Mesh sharded = mesh;
        if (zero > 0) sharded.shards = mesh.data;
        const ProgramOptions o = options_of(family, sharded, zero);
        const std::vector<RankRole> roles = rank_roles(o);
        EXPECT_EQ(roles.size(), static_cast<std::size_t>(mesh.pipeline));
        std::size_t ranks = 0;
        for (const RankRole& role : roles) ranks += role.ranks.size();
        EXPECT_EQ(ranks, static_cast<std::size_t>(mesh.ranks()));
        for (int rank = 0; rank < mesh.ranks(); ++rank) {
          ProgramOptions mine = o;
          mine.rank = rank;
          const MemoryPlan plan = build_programs(mine).plan, &role = role_of(roles, rank).programs.plan;
          SCOPED_TRACE(fmt::format("rank {} of data {} pipeline {} tensor {} zero {}", rank, mesh.data, mesh.pipeline,
                                   mesh.tensor, zero));
          EXPECT_EQ(plan.total_bytes, role.total_bytes);
          EXPECT_EQ(plan.class_bytes, role.class_bytes);
          EXPECT_EQ(plan.padding_bytes, role.padding_bytes);
          EXPECT_EQ(persistent_of(plan), persistent_of(role));
          ++compared;
        }
      }
    }
  }
  EXPECT_GT(compared, 100);
}

// The last stage has the head, the first one the embedding and the most slots: a budget between them fits one only.
TEST(RankRoles, TheBudgetIsThatOfEveryStage) {
  const std::vector<RankRole> roles = rank_roles(options_of(ModelFamily::Llama, {.pipeline = 2}, 0));
  const std::int64_t first = roles[0].programs.plan.total_bytes, last = roles[1].programs.plan.total_bytes;
  ASSERT_NE(first, last);
  EXPECT_EQ(check_budget(roles, std::max(first, last) + 10, 10), std::nullopt);
  const auto no = check_budget(roles, std::max(first, last) + 9, 10);
  ASSERT_TRUE(no);
  EXPECT_EQ(no->needed_bytes, std::max(first, last) + 10);
  const int stage = last > first ? 1 : 0;
  EXPECT_TRUE(no->text.starts_with(fmt::format("stage {0} (rank {0}): the run needs", stage))) << no->text;
}

TEST(RankRoles, TheReportHasEveryRoleAndThePeakOfTheOneAskedFor) {
  const std::vector<RankRole> roles =
      rank_roles(options_of(ModelFamily::Gpt2, {.data = 2, .pipeline = 4, .tensor = 2}, 0));
  PlanContext context;
  context.ranks = 16;
  const std::string text = plan_text(roles, context, &role_of(roles, 9));
  for (int stage = 0; stage < 4; ++stage) {
    EXPECT_NE(
        text.find(fmt::format("stage {} (ranks {}-{}): each holds elements of ", stage, 4 * stage, 4 * stage + 3)),
        std::string::npos)
        << text;
    EXPECT_NE(text.find(fmt::format("\nstage {}: recompute none\n", stage)), std::string::npos) << text;
    EXPECT_NE(text.find(format_count(roles[static_cast<std::size_t>(stage)].programs.plan.total_bytes)),
              std::string::npos);
  }
  EXPECT_NE(text.find("live at the peak of ranks 8-11: program 'train'"), std::string::npos) << text;
  const nlohmann::json json = plan_json(roles, context);
  ASSERT_EQ(json["roles"].size(), 4U);
  std::int64_t most = 0;
  for (std::size_t r = 0; r < roles.size(); ++r) {
    const MemoryPlan& plan = roles[r].programs.plan;
    const nlohmann::json& role = json["roles"][r];
    EXPECT_EQ(role["planned_bytes"], plan.total_bytes);
    EXPECT_EQ(role["ranks"].get<std::vector<int>>(), roles[r].ranks);
    std::int64_t sum = role["padding_bytes"];
    for (const auto& [name, bytes] : role["class_bytes"].items()) sum += bytes.get<std::int64_t>();
    EXPECT_EQ(sum, plan.total_bytes);
    most = std::max(most, plan.total_bytes);
  }
  EXPECT_EQ(json["planned_bytes"], most);
}

// Thousands of ranks are a few lines.
TEST(RankRoles, LongGroupsAreRangesWithAStride) {
  const ProgramOptions o = options_of(ModelFamily::Gpt2, {.data = 2500, .tensor = 4, .shards = 4}, 1);
  PlanContext context;
  context.ranks = 10000;
  const std::string text = plan_text(rank_roles(o), context, nullptr);
  EXPECT_NE(text.find("4 group(s): [0 4 8 … 9996] stride 4, 2500 ranks; [1 5 9 … 9997] stride 4, 2500 ranks"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("2500 group(s): [0 1 2 3] [4 5 6 7]"), std::string::npos) << text;
  EXPECT_NE(text.find("16 group(s): [0 16 32 … 9984] stride 16, 625 ranks"), std::string::npos) << text;
  EXPECT_LT(text.size(), 8000U);
}

// Every key is in its range; what they make together is more than 64 bits count, and says so.
TEST(RankRoles, WhatCannotBeCountedIsRefusedByName) {
  const auto refusal = [](std::int64_t hidden, std::int64_t rows, std::int64_t sequence, std::int64_t layers) {
    ProgramOptions o = options_of(ModelFamily::Gpt2, {}, 0);
    ModelConfig m = family_defaults(ModelFamily::Gpt2);
    m.layers = layers;
    m.hidden = hidden;
    m.heads = 64;
    m.vocabulary = 256;
    m.positions = o.sequence = sequence;
    o.model = resolve(m);
    o.micro_batch = rows;
    try {
      rank_roles(o);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::Config) << error.what();
      return std::string(error.what());
    }
    return std::string();
  };
  constexpr std::int64_t kMost = std::int64_t{1} << 30;
  EXPECT_EQ(refusal(65536, 1, 4096, 2), "");
  EXPECT_NE(refusal(65536, kMost, 4096, 2).find("'0.attention.qkv.y' would be f32[1073741824, 4096, 196608]"),
            std::string::npos);
  EXPECT_NE(refusal(1 << 20, kMost, kMost, 2).find("'embedding.y' would be"), std::string::npos);
  // Each value can be counted, all of them together cannot.
  EXPECT_NE(refusal(65536, 1 << 27, 4096, 8).find("the values of program 'train' are more than"), std::string::npos);
}

// Replicas of a pipeline that have other numbers of micro-batches in flight are roles of their own.
TEST(RankRoles, UnevenSharesAreRolesOfTheirOwn) {
  for (const ScheduleKind schedule : {ScheduleKind::OneFOneB, ScheduleKind::GPipe}) {
    ProgramOptions o = options_of(ModelFamily::Gpt2, {.data = 3, .pipeline = 2}, 0);
    o.schedule = schedule;
    set_shares(o, {1, 6, 1}, 0);
    const std::vector<RankRole> roles = rank_roles(o);
    ASSERT_EQ(roles.size(), 4U);
    EXPECT_EQ(roles[0].name, "stage 0 (x 1)");
    EXPECT_EQ(roles[1].name, "stage 0 (x 6)");
    EXPECT_EQ(roles[0].ranks, (std::vector<int>{0, 2}));
    EXPECT_EQ(roles[3].ranks, (std::vector<int>{4}));
    for (int rank = 0; rank < o.mesh.ranks(); ++rank) {
      ProgramOptions mine = o;
      mine.rank = rank;
      const MemoryPlan plan = build_programs(mine).plan, &role = role_of(roles, rank).programs.plan;
      EXPECT_EQ(plan.total_bytes, role.total_bytes) << "rank " << rank;
      EXPECT_EQ(plan.class_bytes, role.class_bytes) << "rank " << rank;
    }
    EXPECT_LT(roles[0].programs.plan.total_bytes, roles[1].programs.plan.total_bytes);
    EXPECT_TRUE(largest_role(roles).name.ends_with("(x 6)")) << largest_role(roles).name;
  }
  ProgramOptions o = options_of(ModelFamily::Gpt2, {.data = 3}, 0);
  set_shares(o, {1, 6, 1}, 0);
  EXPECT_EQ(rank_roles(o).size(), 1U) << "without a pipeline their plans are alike";
}

TEST(RankRoles, PartsOfTheStateAreRolesOfTheirOwn) {
  for (const Mesh& mesh : {Mesh{.data = 4, .shards = 2}, Mesh{.data = 2, .pipeline = 2, .shards = 2},
                           Mesh{.data = 2, .tensor = 2, .shards = 2}}) {
    for (const int zero : {1, 3}) {
      ProgramOptions o = options_of(ModelFamily::Gpt2, mesh, zero);
      o.state_shares = {4, 4};
      EXPECT_EQ(rank_roles(o).size(), static_cast<std::size_t>(mesh.pipeline)) << "equal";
      o.state_shares = {1, 4};
      const std::vector<RankRole> roles = rank_roles(o);
      ASSERT_EQ(roles.size(), static_cast<std::size_t>(2 * mesh.pipeline));
      EXPECT_EQ(roles[1].name, mesh.pipeline == 1 ? "shard 1" : "stage 0, shard 1");
      for (int rank = 0; rank < mesh.ranks(); ++rank) {
        ProgramOptions mine = o;
        mine.rank = rank;
        const MemoryPlan plan = build_programs(mine).plan, &role = role_of(roles, rank).programs.plan;
        EXPECT_EQ(plan.total_bytes, role.total_bytes) << "rank " << rank;
        EXPECT_EQ(plan.class_bytes, role.class_bytes) << "rank " << rank;
      }
      EXPECT_TRUE(largest_role(roles).name.ends_with("shard 1")) << largest_role(roles).name;
    }
  }
}

TEST(RankRoles, Ranges) {
  EXPECT_EQ(rank_ranges({0}), "0");
  EXPECT_EQ(rank_ranges({0, 1, 2, 5, 7, 8}), "0-2, 5, 7-8");
}

}  // namespace
}  // namespace plimsoll
