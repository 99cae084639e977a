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

ProgramOptions pipeline_options(const Mesh& mesh, int rank, ScheduleKind schedule, int zero = 0) {
  ProgramOptions o = options_of(mesh, rank, zero);
  o.model.layers = 8;
  o.schedule = schedule;
  o.chunks = schedule == ScheduleKind::Interleaved ? 2 : 1;
  o.micro_batches = 2 * mesh.pipeline;
  return o;
}

TEST(Handshake, StagesAgreeAboutTheirMessages) {
  for (const Mesh& mesh : {Mesh{.pipeline = 2}, Mesh{.pipeline = 3}, Mesh{.pipeline = 4},
                           Mesh{.data = 2, .pipeline = 2}, Mesh{.pipeline = 2, .tensor = 2}}) {
    for (const ScheduleKind schedule :
         {ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::Interleaved, ScheduleKind::ZbH1}) {
      for (const int zero : {0, 2, 3}) {
        if (zero > 0 && mesh.data == 1) continue;
        Mesh sharded = mesh;
        if (zero > 0) sharded.shards = mesh.data;
        EXPECT_EQ(fault_of(mesh.ranks(),
                           [&](const Group& group) {
                             const ProgramOptions o = pipeline_options(sharded, group.rank(), schedule, zero);
                             agree(group, build_programs(o), o);
                           }),
                  "");
      }
    }
  }
}

// Every message of a rank is in one of its agreements, and each agreement is between two ranks.
TEST(Handshake, EveryMessageIsComparedOnce) {
  for (const int stages : {2, 3, 4, 5}) {
    const Mesh mesh{.pipeline = stages};
    for (const ScheduleKind schedule : {ScheduleKind::OneFOneB, ScheduleKind::Interleaved}) {
      std::map<std::string, int> ranks_of;
      for (int rank = 0; rank < stages; ++rank) {
        ProgramOptions o = pipeline_options(mesh, rank, schedule);
        o.model.layers = 2 * stages;
        o.pipeline_chunks = stages == 3 ? 2 : 1;
        const Programs p = build_programs(o);
        std::size_t listed = 0, compared = 0;
        for (const Program& program : p.list())
          listed += stage_messages(*program.graph, *p.schedule, p.stage, program.schedule != nullptr).size();
        for (const MessageKind kind : {MessageKind::Output, MessageKind::Gradient}) {
          for (int colour = 0; colour < kLinkColours; ++colour) {
            const Agreement a = message_agreement(p, o, kind, colour);
            compared += a.items.size();
            if (!a.items.empty()) ++ranks_of[a.subject + a.role];
          }
        }
        EXPECT_EQ(compared, listed) << "rank " << rank << " of " << stages;
        EXPECT_GT(listed, 0U);
      }
      for (const auto& [role, ranks] : ranks_of) EXPECT_EQ(ranks, 2) << role;
    }
  }
}

TEST(Handshake, NamesTheFirstMessageThatDiffers) {
  const Mesh mesh{.pipeline = 4};
  const auto fault = fault_of(4, [&](const Group& group) {
    const ProgramOptions o = pipeline_options(mesh, group.rank(), ScheduleKind::OneFOneB);
    Programs programs = build_programs(o);
    // Stage 2 goes another way through its micro-batches.
    std::vector<Action>& actions = programs.schedule->actions[2];
    if (group.rank() == 2) std::swap(actions[0].micro_batch, actions[1].micro_batch);
    agree(group, programs, o);
  });
  EXPECT_EQ(fault, fmt::format(
                       "the ranks of the link from rank 2 to rank 3 do not agree about the order of messages over axis "
                       "pipeline: rank(s) 3 differ from 1 of 2: message 0 of program train is output of micro-batch 1 "
                       "for piece 3 of {0} bytes, f32 on rank 2 and output of micro-batch 0 for piece 3 of {0} bytes, "
                       "f32 on rank 3",
                       2 * 12 * 24 * 4));
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

TEST(Handshake, SharesOfTheStateAreComparedAndRanksMayDiffer) {
  for (const Mesh& mesh : {Mesh{.data = 4, .shards = 2}, Mesh{.data = 2, .tensor = 2, .shards = 2}}) {
    for (const int zero : {1, 2, 3}) {
      const auto fault_with = [&](const std::vector<std::int64_t>& odd) {
        return fault_of(4, [&](const Group& group) {
          ProgramOptions o = options_of(mesh, group.rank(), zero);
          o.state_shares = group.rank() == 3 ? odd : std::vector<std::int64_t>{2, 7};
          agree(group, build_programs(o), o);
        });
      };
      EXPECT_EQ(fault_with({2, 7}), "");
      EXPECT_EQ(fault_with({3, 7}),
                "the ranks do not agree about the plan: rank(s) 3 differ from 3 of 4: parallel.state_shares is 2, 7 on "
                "rank 0 and 3, 7 on rank 3");
    }
  }
}

TEST(Handshake, SharesAreComparedAndReplicasMayDiffer) {
  const Mesh mesh{.data = 2, .pipeline = 2};
  const auto fault_with = [&](const std::vector<std::int64_t>& odd) {
    return fault_of(4, [&](const Group& group) {
      ProgramOptions o = pipeline_options(mesh, group.rank(), ScheduleKind::GPipe);
      set_shares(o, group.rank() == 3 ? odd : std::vector<std::int64_t>{2, 6}, 0);
      agree(group, build_programs(o), o);
    });
  };
  EXPECT_EQ(fault_with({2, 6}), "");
  EXPECT_EQ(
      fault_with({3, 5}),
      "the ranks do not agree about the plan: rank(s) 3 differ from 3 of 4: parallel.shares is 2, 6 on rank 0 and "
      "3, 5 on rank 3");
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
