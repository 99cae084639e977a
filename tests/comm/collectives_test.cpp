// The collectives over the transports of one process, and what happens when a rank fails.

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "launch/allocation_counter.hpp"
#include "runtime/device/device.hpp"
#include "tests/comm/collectives_suite.hpp"
#include "tests/support/local_ranks.hpp"

namespace plimsoll {
namespace {

using test::on_ranks;

TEST(SelfTransport, Suite) {
  const Group group("data", make_self_transport());
  for (const SuiteCase& c : kCollectiveSuite) EXPECT_EQ(c.check(group), "") << c.name;
  EXPECT_EQ(group.bytes_sent(), 0);
}

class LocalTransportSuite : public testing::TestWithParam<int> {};

TEST_P(LocalTransportSuite, AllCollectives) {
  for (const SuiteCase& c : kCollectiveSuite) {
    const auto faults = on_ranks(GetParam(), c.check);
    for (std::size_t r = 0; r < faults.size(); ++r) EXPECT_EQ(faults[r], "") << c.name << ", rank " << r;
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, LocalTransportSuite, testing::Values(1, 2, 3, 4, 8));

// Rank 0 of many that hears what lies in its buffers already.
class SilentTransport : public Transport {
 public:
  int rank() const override { return 0; }
  int size() const override { return 100; }
  void start(int, std::span<const Message>, std::span<const Message>) override {}
  void finish(int) override {}
};

TEST(Group, CollectivesOfManyRanksAllocateNothingAfterTheFirst) {
  const Group group("data", std::make_shared<SilentTransport>());
  std::vector<float> whole(1000), part(10);
  std::vector<std::byte> scratch(static_cast<std::size_t>(reduce_scratch_bytes(group.size())));
  const View all{whole.data(), {{1000}, DType::f32}}, mine{part.data(), {{10}, DType::f32}};
  const auto run = [&] {
    group.all_reduce(all, ReduceOp::Sum, scratch.data());
    group.reduce_scatter(all, mine, ReduceOp::Sum, scratch.data());
    group.all_gather(mine, all);
    group.broadcast(all, 0);
  };
  run();
  AllocationCounter::start();
  begin_counted_region();
  run();
  end_counted_region();
  EXPECT_EQ(AllocationCounter::count(), 0);
}

// Rank 2 fails at some time in a series of collectives. Buffers end with each call: a copy that outlived them is a
// fault under the sanitizers.
TEST(LocalTransport, FailingRankReleasesOthers) {
  for (int rounds = 0; rounds < 8; ++rounds) {
    const auto faults = on_ranks(4, [rounds](const Group& g) -> std::string {
      for (int round = 0;; ++round) {
        require(g.rank() != 2 || round < rounds, ErrorKind::Numerical, "rank 2 has had enough");
        std::vector<std::byte> scratch(static_cast<std::size_t>(reduce_scratch_bytes(g.size())));
        Guarded<float> x(200001);
        g.all_reduce(x.view(), ReduceOp::Sum, scratch.data());
      }
    });
    EXPECT_EQ(faults[2], "rank 2 has had enough");
    for (const std::size_t r : {0U, 1U, 3U}) EXPECT_NE(faults[r].find("failed"), std::string::npos) << faults[r];
  }
}

// Every rank of a process must see a size that does not fit, not only the one that finds it.
TEST(LocalTransport, SizesThatDiffer) {
  const auto faults = on_ranks(2, [](const Group& g) -> std::string {
    Guarded<float> x(10);
    if (g.rank() == 0) g.send(x.view(0, 10), 1);
    if (g.rank() == 1) g.receive(x.view(0, 9), 0);
    return "";
  });
  EXPECT_EQ(faults[1], "rank 1 expects 36 bytes from rank 0, which sent 40");
  EXPECT_NE(faults[0].find("failed"), std::string::npos) << faults[0];
}

// The main thread unwinds while the communication stream waits for a rank that never comes.
TEST(LocalTransport, DestroyedStreamStopsWaiting) {
  const auto transports = make_local_transports(2);
  struct Wait {
    Group group;
    Guarded<float> x{4};
    std::atomic<bool> begun = false, lost = false;
  } wait{Group("data", transports[0])};
  const auto run = [](void* argument) {
    auto& w = *static_cast<Wait*>(argument);
    w.begun = true;
    try {
      w.group.receive(w.x.view(), 1);
    } catch (const Error& error) {
      w.lost = error.kind() == ErrorKind::PeerLost;
      throw;
    }
  };
  const auto device = make_cpu_device(1);
  {
    const auto stream = device->make_stream(StreamKind::Communication);
    stream->launch({run, &wait});
    while (!wait.begun) std::this_thread::yield();
  }
  EXPECT_TRUE(wait.lost);
  EXPECT_THROW(Group("data", transports[1]).send(wait.x.view(), 0), Error);  // nobody will come here either
}

TEST(FakeTransport, RecordsAndMovesNothing) {
  const auto fake = std::make_shared<FakeTransport>(1, 4);
  const Group group("data", fake);
  Guarded<float> x(8);
  group.broadcast(x.view(), 0);
  group.broadcast(x.view(), 1);
  group.all_gather(x.view(2, 2), x.view());
  ASSERT_EQ(fake->calls().size(), 3U);
  EXPECT_EQ(fake->calls()[0].received_bytes, 32);
  EXPECT_EQ(fake->calls()[0].sent_bytes, 0);
  EXPECT_EQ(fake->calls()[1].sent_bytes, 3 * 32);
  EXPECT_EQ(fake->calls()[2].sent_bytes, 3 * 8);
  EXPECT_EQ(fake->calls()[2].received_bytes, 3 * 8);
  EXPECT_EQ(group.bytes_sent(), 3 * 32 + 3 * 8);
  const RankCuts cuts{0, 1, 4, 4, 8};  // of which this rank has three
  group.all_gather(x.view(1, 3), x.view(), "", cuts);
  EXPECT_EQ(fake->calls()[3].sent_bytes, 3 * 12);
  EXPECT_EQ(fake->calls()[3].received_bytes, 4 + 16);
}

TEST(Collectives, PartsThatAreNotThoseOfTheCutsAreRefused) {
  const Group group("data", std::make_shared<FakeTransport>(1, 4));
  Guarded<float> x(8);
  EXPECT_THROW(group.all_gather(x.view(2, 3), x.view()), Error);
  EXPECT_THROW(group.all_gather(x.view(1, 2), x.view(), "", {0, 1, 4, 4, 8}), Error);
  EXPECT_THROW(group.all_gather(x.view(1, 3), x.view(), "", {0, 1, 4, 8}), Error);
  EXPECT_THROW(group.reduce_scatter(x.view(), x.view(1, 3), ReduceOp::Sum, nullptr, "", {0, 1, 4, 4, 7}), Error);
}

}  // namespace
}  // namespace plimsoll
