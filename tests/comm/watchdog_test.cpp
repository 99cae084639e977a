// The watchdog over threads of one process: who is named when a rank does not come.

#include "comm/watchdog.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <deque>
#include <future>

#include "tests/support/local_ranks.hpp"

namespace plimsoll {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// Channels between threads; a rank that is `stopped` does not answer.
struct Mailboxes {
  std::mutex mutex;
  std::vector<std::deque<RankState>> boxes;
};
class LocalStallChannel : public StallChannel {
 public:
  LocalStallChannel(std::shared_ptr<Mailboxes> shared, int rank) : shared_(std::move(shared)), rank_(rank) {}
  void tell(const RankState& mine, int rank) override {
    const std::lock_guard lock(shared_->mutex);
    shared_->boxes[static_cast<std::size_t>(rank)].push_back(mine);
  }
  bool poll(RankState& theirs) override {
    const std::lock_guard lock(shared_->mutex);
    auto& box = shared_->boxes[static_cast<std::size_t>(rank_)];
    if (box.empty()) return false;
    theirs = box.front();
    box.pop_front();
    return true;
  }

 private:
  std::shared_ptr<Mailboxes> shared_;
  int rank_;
};

// A rank with a watchdog. `stalled` is what it reports.
struct WatchedRank {
  WatchedRank(int rank, int ranks, const std::shared_ptr<Mailboxes>& mail)
      : watchdog(std::make_unique<Watchdog>(rank, ranks,
                                            mail ? std::make_unique<LocalStallChannel>(mail, rank) : nullptr)) {}
  Group group(const std::string& axis, std::shared_ptr<Transport> transport, std::vector<int> ranks) {
    return {axis, std::move(transport), watchdog->watch(axis, std::move(ranks))};
  }
  // Reports, then fails the transports, so that the calls end.
  void start(std::vector<std::shared_ptr<Transport>> transports) {
    watchdog->start([this, transports = std::move(transports)](const Stall& s) {
      stall = s;
      at = Clock::now();
      reported = true;
      std::this_thread::sleep_for(600ms);  // the others report too
      for (const auto& t : transports) abort_local(*t);
    });
  }
  std::unique_ptr<Watchdog> watchdog;  // null after a run
  std::atomic<bool> reported = false;
  Stall stall;
  Clock::time_point at;
};

struct World {
  explicit World(int ranks, bool channel = true) : transports(make_local_transports(ranks)) {
    std::shared_ptr<Mailboxes> mail;
    if (channel) mail = std::make_shared<Mailboxes>();
    if (mail) mail->boxes.resize(static_cast<std::size_t>(ranks));
    for (int r = 0; r < ranks; ++r) members.push_back(std::make_unique<WatchedRank>(r, ranks, mail));
  }
  // body(rank, group) on a thread each; exceptions end a rank.
  void run(const std::function<void(int, const Group&)>& body, const std::vector<int>& stopped = {},
           bool in_step = true) {
    std::vector<int> all(members.size());
    for (std::size_t r = 0; r < all.size(); ++r) all[r] = static_cast<int>(r);
    std::vector<std::thread> threads;
    for (std::size_t r = 0; r < members.size(); ++r) {
      threads.emplace_back([&, r] {
        WatchedRank& me = *members[r];
        me.watchdog->set_deadline(1);
        const Group group = me.group("data", transports[r], all);
        if (std::find(stopped.begin(), stopped.end(), static_cast<int>(r)) == stopped.end()) me.start({transports[r]});
        try {
          std::optional<Watchdog::InStep> step;
          if (in_step) step.emplace(*me.watchdog);
          body(static_cast<int>(r), group);
        } catch (const Error& error) {
          EXPECT_EQ(error.kind(), ErrorKind::PeerLost);
          abort_local(*transports[r]);
        }
      });
    }
    for (std::thread& t : threads) t.join();
    for (const auto& member : members) member->watchdog.reset();
  }
  std::string text(int rank) const { return members[static_cast<std::size_t>(rank)]->stall.text; }
  std::vector<std::shared_ptr<Transport>> transports;
  std::vector<std::unique_ptr<WatchedRank>> members;
};

void reduce(const Group& group, const char* label) {
  std::vector<float> x(8, 1);
  std::vector<std::byte> scratch(static_cast<std::size_t>(reduce_scratch_bytes(group.size())));
  group.all_reduce({x.data(), {{8}, DType::f32}}, ReduceOp::Sum, scratch.data(), label);
}

TEST(Watchdog, NamesTheRankThatNeverCalls) {
  World world(3);
  const auto begin = Clock::now();
  world.run([&](int rank, const Group& group) {
    reduce(group, "first");
    while (rank == 2 && !world.members[2]->reported) std::this_thread::sleep_for(10ms);
    if (rank != 2) reduce(group, "second");
  });
  for (const int r : {0, 1}) {
    EXPECT_NE(world.text(r).find("all_reduce 'second' over axis data, call 2, 32 bytes: not complete after"),
              std::string::npos)
        << world.text(r);
    EXPECT_NE(world.text(r).find("rank 2 has not arrived, rank 2 is in no collective"), std::string::npos)
        << world.text(r);
    const double seconds =
        std::chrono::duration<double>(world.members[static_cast<std::size_t>(r)]->at - begin).count();
    EXPECT_GT(seconds, 1);
    EXPECT_LT(seconds, 2.5);
  }
  EXPECT_NE(world.text(2).find("waits since"), std::string::npos) << world.text(2);
  EXPECT_NE(world.text(2).find("this rank is in no collective"), std::string::npos) << world.text(2);
  EXPECT_FALSE(world.members[0]->stall.told_by_another);
  EXPECT_TRUE(world.members[1]->stall.told_by_another);
}

// As in a run that chooses its mesh: groups of the old one are in the watchdog still.
TEST(Watchdog, GroupsThatWereMadeAgainHaveTheirOwnCounts) {
  World world(3);
  for (const auto& member : world.members) {
    const auto earlier = member->watchdog->watch("data", {0, 1, 2});
    for (int other = 0; other < 20; ++other) member->watchdog->watch(fmt::format("axis {}", other), {0, 1, 2});
    const Watchdog::Call call(earlier.get(), "all_reduce", "earlier", 8);
  }
  world.run([&](int rank, const Group& group) {
    for (int call = 0; call < 4; ++call) reduce(group, "before");
    while (rank == 2 && !world.members[2]->reported) std::this_thread::sleep_for(10ms);
    if (rank != 2) reduce(group, "second");
  });
  for (const int r : {0, 1}) {
    EXPECT_NE(world.text(r).find("rank 2 has not arrived, rank 2 is in no collective"), std::string::npos)
        << world.text(r);
  }
}

TEST(Watchdog, ARankThatIsStoppedDoesNotAnswer) {
  World world(3);
  world.run(
      [&](int rank, const Group& group) {
        if (rank == 0) {
          while (!world.members[1]->reported) std::this_thread::sleep_for(10ms);
          return;
        }
        reduce(group, "only");
      },
      {0});
  for (const int r : {1, 2}) {
    EXPECT_NE(world.text(r).find("rank 0 has not arrived, rank 0 does not answer"), std::string::npos) << world.text(r);
  }
  EXPECT_FALSE(world.members[1]->stall.told_by_another) << "rank 0 says nothing";
}

TEST(Watchdog, AMessageNamesItsPeer) {
  World world(3);
  world.run([&](int rank, const Group& group) {
    float x = 0;
    if (rank == 1) group.receive({&x, {{1}, DType::f32}}, 2);
    while (!world.members[1]->reported) std::this_thread::sleep_for(10ms);
  });
  EXPECT_NE(world.text(1).find("receive from rank 2 over axis data, message 1, 4 bytes: not complete after"),
            std::string::npos)
      << world.text(1);
  EXPECT_NE(world.text(1).find("rank 2 has not arrived, rank 2 is in no collective"), std::string::npos)
      << world.text(1);
}

// A message that is under way while its rank works is not waited for until the rank says so.
TEST(Watchdog, MessagesAheadOfTimeAreNotLate) {
  World world(2);
  std::atomic<bool> awaited = false, early = false;
  world.run([&](int rank, const Group& group) {
    if (rank == 1) {
      while (!world.members[0]->reported) std::this_thread::sleep_for(10ms);
      return;
    }
    float x = 0;
    std::thread ahead([&] {
      try {
        group.receive({&x, {{1}, DType::f32}}, 1, "output of micro-batch 3 for piece 1", &awaited);
      } catch (const Error&) {  // how the test ends
      }
    });
    std::this_thread::sleep_for(1500ms);
    early = world.members[0]->reported.load();
    awaited = true;
    ahead.join();
  });
  EXPECT_FALSE(early) << "reported while the rank worked";
  EXPECT_NE(world.text(0).find("receive 'output of micro-batch 3 for piece 1' from rank 1 over axis data, message 1, 4 "
                               "bytes: not complete after 1."),
            std::string::npos)
      << world.text(0);
  EXPECT_NE(world.text(0).find("rank 1 has not arrived, rank 1 is in no collective"), std::string::npos)
      << world.text(0);
}

TEST(Watchdog, WithoutAChannelTheCallIsNamed) {
  World world(2, false);
  world.run([&](int rank, const Group& group) {
    if (rank == 0) return reduce(group, "alone");
    while (!world.members[0]->reported) std::this_thread::sleep_for(10ms);
  });
  EXPECT_NE(world.text(0).find("all_reduce 'alone' over axis data, call 1, 32 bytes"), std::string::npos);
}

// A poll runs on the watchdog's thread, where nobody else would catch what it throws.
TEST(Watchdog, WhatAPollThrowsIsReported) {
  WatchedRank rank(0, 1, nullptr);
  const auto watched = rank.watchdog->watch("data", {0});
  rank.watchdog->poll_with(*watched, []() -> std::optional<std::string> {
    throw Error(ErrorKind::Device, "cudaEventQuery: an illegal memory access");
  });
  rank.start({});
  while (!rank.reported) std::this_thread::sleep_for(10ms);
  rank.watchdog.reset();
  EXPECT_EQ(rank.stall.kind, ErrorKind::Device);
  EXPECT_EQ(rank.stall.text, "cudaEventQuery: an illegal memory access");
}

// Where ranks load and save, who is alive is waited for beyond the deadline, and who is not is not.
TEST(Watchdog, OutsideOfStepsARankThatAnswersHasTime) {
  World world(2);
  world.run(
      [&](int rank, const Group& group) {
        if (rank == 1) std::this_thread::sleep_for(3500ms);
        reduce(group, "saved");
      },
      {}, false);
  for (const auto& member : world.members) EXPECT_FALSE(member->reported) << member->stall.text;
}

TEST(Watchdog, OutsideOfStepsARankThatIsStoppedHasTheDeadline) {
  World world(3);
  const auto begin = Clock::now();
  world.run(
      [&](int rank, const Group& group) {
        if (rank == 2) {
          while (!world.members[0]->reported) std::this_thread::sleep_for(10ms);
          return;
        }
        reduce(group, "saved");
      },
      {2}, false);
  for (const int r : {0, 1}) {
    EXPECT_NE(world.text(r).find("all_reduce 'saved' over axis data, call 1, 32 bytes: not complete after"),
              std::string::npos)
        << world.text(r);
    EXPECT_NE(world.text(r).find("rank 2 has not arrived, rank 2 does not answer"), std::string::npos) << world.text(r);
    const double seconds =
        std::chrono::duration<double>(world.members[static_cast<std::size_t>(r)]->at - begin).count();
    EXPECT_GT(seconds, Watchdog::kLeastAnswerSeconds);
    EXPECT_LT(seconds, 5);
  }
}

TEST(Watchdog, EvaluationHasTheDeadlineOfSteps) {
  Watchdog watchdog(0, 1, nullptr);
  watchdog.set_deadline(3);
  EXPECT_EQ(watchdog.deadline(), 30);
  {
    const Watchdog::InStep step(watchdog, Watchdog::StepKind::Evaluation);
    EXPECT_EQ(watchdog.deadline(), 3);
  }
  EXPECT_EQ(watchdog.deadline(), 30);
}

TEST(Watchdog, SlowIsNotHung) {
  World world(2);
  world.run([&](int rank, const Group& group) {
    for (int i = 0; i < 3; ++i) {
      if (rank == 1) std::this_thread::sleep_for(600ms);
      reduce(group, "slow");
    }
  });
  for (const auto& member : world.members) EXPECT_FALSE(member->reported) << member->stall.text;
}

TEST(Watchdog, DeadlinesFollowTheSteps) {
  Watchdog watchdog(0, 1, nullptr);
  EXPECT_EQ(watchdog.deadline(), 10 * 30);
  {
    const Watchdog::InStep step(watchdog);
    EXPECT_EQ(watchdog.deadline(), 10 * 30) << "no step was measured";
  }
  const Watchdog::InStep step(watchdog);
  EXPECT_EQ(watchdog.deadline(), 30) << "a short step";
  watchdog.set_deadline(3);
  EXPECT_EQ(watchdog.deadline(), 3);
}

// Also the one that waits behind many that go on beside other work.
TEST(Watchdog, KnowsAnyNumberOfCalls) {
  Watchdog watchdog(0, 1, nullptr);
  watchdog.set_deadline(0.3);
  const auto group = watchdog.watch("data", {0});
  std::promise<std::string> stalled;
  const Watchdog::InStep step(watchdog);
  const std::atomic<bool> awaited = false;
  std::deque<Watchdog::Call> calls;
  for (int i = 0; i < 200; ++i) calls.emplace_back(group.get(), "receive", "ahead", 4, 0, &awaited);
  const Watchdog::Call waits(group.get(), "all_reduce", "last", 8);
  watchdog.start([&](const Stall& stall) { stalled.set_value(stall.text); });
  auto text = stalled.get_future();
  ASSERT_EQ(text.wait_for(10s), std::future_status::ready);
  EXPECT_TRUE(text.get().starts_with("all_reduce 'last' over axis data, call 1, 8 bytes: not complete"));
}

}  // namespace
}  // namespace plimsoll
