// Ranks that were not started alike find out before step 0, and say in what they differ.

#include "launch/handshake.hpp"

#include <gtest/gtest.h>

#include "tests/launch/tiny_run.hpp"
#include "tests/support/local_ranks.hpp"

namespace plimsoll {
namespace {

using namespace test;

std::vector<std::string> faults_of(int ranks, const std::function<void(const Group&)>& body) {
  return on_ranks(ranks, [&](const Group& group) -> std::string {
    try {
      body(group);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::RanksDisagree);
      return error.what();
    }
    return "";
  });
}

// All ranks say the same.
std::string fault_of(int ranks, const std::function<void(const Group&)>& body) {
  const std::vector<std::string> faults = faults_of(ranks, body);
  for (const std::string& f : faults) EXPECT_EQ(f, faults[0]);
  return faults[0];
}

TEST(Handshake, RanksAlikeAgree) {
  const TempFolder folder;
  write_tiny_data(folder);
  EXPECT_EQ(fault_of(3, [&](const Group& group) { agree(group, tiny_config(folder, "run")); }), "");
}

TEST(Handshake, NamesTheMinorityAndTheFirstKey) {
  const TempFolder folder;
  write_tiny_data(folder);
  const auto fault = fault_of(4, [&](const Group& group) {
    std::vector<std::string> overrides;
    if (group.rank() == 1 || group.rank() == 3) overrides = {"optimizer.lr=0.5", "run.seed=9"};
    if (group.rank() == 3) overrides.emplace_back("train.steps=7");
    agree(group, tiny_config(folder, "run", overrides));
  });
  EXPECT_EQ(fault,
            "the ranks do not agree about the configuration: rank(s) 1, 3 differ from 2 of 4: optimizer.lr is 0.003 on "
            "rank 0 and 0.5 on rank 1");
}

TEST(Handshake, RankZeroMayBeTheMinority) {
  const auto fault = fault_of(3, [](const Group& group) {
    agree_on(group, {"the build", "", {{"hash", group.rank() == 0 ? "aa" : "bb"}}});
  });
  EXPECT_EQ(fault,
            "the ranks do not agree about the build: rank(s) 0 differ from 2 of 3: hash is bb on rank 1 and aa on rank "
            "0");
}

TEST(Handshake, RolesAreComparedAmongThemselves) {
  const auto fault = [](int odd) {
    return fault_of(5, [odd](const Group& group) {
      const int stage = group.rank() % 2;
      const std::string bytes = std::to_string(group.rank() == odd ? 7 : stage);
      agree_on(group, {"the plan", fmt::format("stage {}", stage), {{"arena", bytes}}});
    });
  };
  EXPECT_EQ(fault(-1), "");
  EXPECT_EQ(
      fault(4),
      "the ranks of stage 0 do not agree about the plan: rank(s) 4 differ from 2 of 3: arena is 0 on rank 0 and 7 "
      "on rank 4");
}

ProgramOptions options_of(const Mesh& mesh, int rank, int zero) {
  ProgramOptions o = tiny_options(ModelFamily::Gpt2);
  o.mesh = mesh;
  o.rank = rank;
  o.zero = zero;
  o.evaluate = true;
  return o;
}

TEST(Handshake, MeshesAgreeAboutPlanAndOrder) {
  for (const Mesh& mesh : {Mesh{.data = 4}, Mesh{.data = 2, .tensor = 2}, Mesh{.data = 4, .shards = 2}}) {
    for (const int zero : {0, 1, 2, 3}) {
      if (zero == 0 && mesh.shards > 1) continue;
      Mesh sharded = mesh;
      if (zero > 0 && sharded.shards == 1) sharded.shards = sharded.data;
      EXPECT_EQ(fault_of(4,
                         [&](const Group& group) {
                           const ProgramOptions o = options_of(sharded, group.rank(), zero);
                           agree(group, build_programs(o), o);
                         }),
                "");
    }
  }
}

TEST(Handshake, NamesWhatDiffersInThePlan) {
  const auto fault = fault_of(2, [](const Group& group) {
    ProgramOptions o = options_of({.data = 2}, group.rank(), 0);
    if (group.rank() == 1) o.micro_batch = 1;
    agree(group, build_programs(o), o);
  });
  EXPECT_EQ(fault,
            "the ranks do not agree about the plan: rank(s) 1 differ from 1 of 2: train.micro_batch is 2 on rank 0 and "
            "1 on rank 1");
}

TEST(Handshake, NamesTheFirstCollectiveThatDiffers) {
  const auto fault = fault_of(2, [](const Group& group) {
    ProgramOptions o = options_of({.data = 2}, group.rank(), 0);
    o.bucket_bytes = group.rank() == 0 ? 1 << 20 : 1 << 14;
    agree_on(group, order_agreement(build_programs(o), o, "data"));
  });
  EXPECT_NE(fault.find("the ranks of axis data that holds rank 0 do not agree about the order of collectives over axis "
                       "data: rank(s) 1 differ from 1 of 2: call 1 of program train is all_reduce of "),
            std::string::npos)
      << fault;
  EXPECT_NE(fault.find("'reduce.bucket0' on rank 0 and all_reduce of "), std::string::npos) << fault;
}

TEST(Handshake, AListThatEndsEarlier) {
  const auto fault = fault_of(2, [](const Group& group) {
    Agreement a{"the order", "", {{"call 0", "x"}, {"call 1", "y"}}};
    if (group.rank() == 1) a.items.pop_back();
    agree_on(group, a);
  });
  EXPECT_EQ(fault,
            "the ranks do not agree about the order: rank(s) 1 differ from 1 of 2: rank 0 has call 1 (y), rank 1 "
            "does not");
}

}  // namespace
}  // namespace plimsoll
