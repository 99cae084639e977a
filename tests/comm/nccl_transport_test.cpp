// The NCCL transport against a library that records: what is called in which order, what becomes of every answer, and
// what the watchdog sees. The common suite runs over it as well.

#include "comm/nccl_transport.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "tests/comm/collectives_suite.hpp"
#include "tests/comm/fake_nccl.hpp"
#include "tests/support/local_ranks.hpp"

namespace plimsoll {
namespace {

using namespace std::chrono_literals;
using test::FakeNccl;
using test::FakeNcclWorld;
using test::QueueDevice;
using Log = std::vector<std::string>;

NcclOptions options(int rank, std::vector<std::pair<int, int>> directions = {}) {
  return {"data", fmt::format("host 0000:{:02}:00.0", rank), std::move(directions), 300};
}

// body(transport, library, device) on ranks with a library each.
using Body = std::function<std::string(NcclTransport&, FakeNccl&, QueueDevice&)>;
std::vector<std::string> on_nccl_ranks(int ranks, const Body& body,
                                       const std::vector<std::pair<int, int>>& directions = {}) {
  const auto world = std::make_shared<FakeNcclWorld>();
  return test::on_ranks_over(ranks, [&](const std::shared_ptr<Transport>& control) {
    QueueDevice device;
    const auto api = std::make_shared<FakeNccl>(world);
    try {
      const auto transport = make_nccl_transport(api, control, device, options(control->rank(), directions));
      return body(*transport, *api, device);
    } catch (...) {
      world->abort();
      throw;
    }
  });
}

// One rank by itself, whose collectives are asked for directly.
struct Alone {
  explicit Alone(const NcclOptions& o = options(0), std::shared_ptr<WatchedGroup> watch = nullptr)
      : transport(make_nccl_transport(api, make_self_transport(), device, o, std::move(watch))) {}
  std::shared_ptr<FakeNccl> api = std::make_shared<FakeNccl>();
  QueueDevice device;
  std::unique_ptr<Stream> stream = device.make_stream(StreamKind::Communication);
  std::shared_ptr<NcclTransport> transport;
  std::vector<float> memory = std::vector<float>(64, 1.0F);
  View x{memory.data(), {{64}, DType::f32}};
  void all_reduce(const char* label = "sum") const {
    const CallSite at(label, stream.get());
    transport->whole(at)->all_reduce(x, ReduceOp::Sum, at);
  }
};

template <class Call>
std::pair<ErrorKind, std::string> error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return {error.kind(), error.what()};
  }
  return {ErrorKind::Internal, "no error"};
}

class NcclSuite : public testing::TestWithParam<int> {};

TEST_P(NcclSuite, AllCollectives) {
  for (const SuiteCase& c : kCollectiveSuite) {
    const auto faults = on_nccl_ranks(GetParam(), [&](NcclTransport& transport, FakeNccl&, QueueDevice& device) {
      const Group group("data", std::shared_ptr<Transport>(std::shared_ptr<void>(), &transport));
      return c.check(SuiteGroup(group, device));
    });
    for (std::size_t r = 0; r < faults.size(); ++r) EXPECT_EQ(faults[r], "") << c.name << ", rank " << r;
  }
}
INSTANTIATE_TEST_SUITE_P(Ranks, NcclSuite, testing::Values(1, 2, 3));

TEST(NcclTransport, CallsOfACollective) {
  const auto faults = on_nccl_ranks(2, [](NcclTransport& transport, FakeNccl& api, QueueDevice& device) -> std::string {
    const Group group("data", std::shared_ptr<Transport>(std::shared_ptr<void>(), &transport));
    const auto stream = device.make_stream(StreamKind::Communication);
    api.expected_stream = stream->native_handle();
    const CallSite at("label", stream.get());
    Guarded<float> whole(6), part(3), first(6), none(0);
    api.log.clear();
    group.all_reduce(whole.view(), ReduceOp::Sum, nullptr, at);
    group.reduce_scatter(whole.view(), part.view(), ReduceOp::Max, nullptr, at);
    group.all_gather(part.view(), whole.view(), at);
    const RankCuts cuts{0, 6, 6};  // rank 1 has nothing
    View mine = group.rank() == 0 ? first.view() : none.view();
    group.reduce_scatter(whole.view(), mine, ReduceOp::Sum, nullptr, at, cuts);
    group.all_gather(mine, whole.view(), at, cuts);
    const Log expected{"ncclAllReduce, 6 elements, axis data",
                       "ncclReduceScatter, 3 elements, axis data",
                       "ncclAllGather, 3 elements, axis data",
                       "ncclGroupStart",
                       "ncclReduce to 0, 6 elements, axis data",
                       "ncclGroupEnd",
                       "ncclGroupStart",
                       "ncclBroadcast from 0, 6 elements, axis data",
                       "ncclGroupEnd"};
    return api.log == expected ? "" : fmt::format("{}", fmt::join(api.log, "; "));
  });
  for (const std::string& fault : faults) EXPECT_EQ(fault, "");
}

// Of a pipeline: rank 1 asks for what it receives first, and what it sends must not wait behind that.
TEST(NcclTransport, EachDirectionHasACommunicator) {
  const auto directions = neighbour_directions(3, Towards::Next);
  EXPECT_EQ(directions, (std::vector<std::pair<int, int>>{{0, 1}, {1, 2}, {2, 0}}));
  EXPECT_EQ(neighbour_directions(2, Towards::Previous), (std::vector<std::pair<int, int>>{{1, 0}, {0, 1}}));
  EXPECT_TRUE(neighbour_directions(1, Towards::Next).empty());
  const auto faults = on_nccl_ranks(
      3,
      [](NcclTransport& transport, FakeNccl& api, QueueDevice& device) -> std::string {
        const Group group("data", std::shared_ptr<Transport>(std::shared_ptr<void>(), &transport));
        const auto stream = device.make_stream(StreamKind::Communication);
        const CallSite at("label", stream.get());
        const int rank = group.rank();
        const Log started = api.log;
        std::size_t inits = 0;
        for (const std::string& call : started) inits += call.starts_with("ncclCommInitRankConfig") ? 1 : 0;
        if (inits != 3) return fmt::format("{} communicators: {}", inits, fmt::join(started, "; "));
        Guarded<float> x(4);
        x.fill(rank);
        api.log.clear();
        if (rank == 0) group.send(x.view(), 1, at);
        if (rank == 1) group.receive(x.view(), 0, at);
        if (rank == 1) group.send(x.view(), 2, at);
        if (rank == 2) group.receive(x.view(), 1, at);
        const Log expected = rank == 0   ? Log{"ncclSend to 1, 4 elements, axis data, messages from 0 to 1"}
                             : rank == 1 ? Log{"ncclRecv from 0, 4 elements, axis data, messages from 0 to 1",
                                               "ncclSend to 1, 4 elements, axis data, messages from 1 to 2"}
                                         : Log{"ncclRecv from 0, 4 elements, axis data, messages from 1 to 2"};
        if (api.log != expected) return fmt::format("{}", fmt::join(api.log, "; "));
        return x.compare("around", [](std::int64_t i) { return suite_value<float>(0, i); });
      },
      directions);
  for (const std::string& fault : faults) EXPECT_EQ(fault, "");
}

TEST(NcclTransport, FollowsWhatIsInProgress) {
  Alone alone;
  int asked = 0;
  alone.api->answer = [](const std::string& call) { return call.starts_with("ncclAllReduce") ? kNcclInProgress : 0; };
  alone.api->state = [&] { return ++asked < 4 ? kNcclInProgress : kNcclSuccess; };
  alone.all_reduce();
  EXPECT_EQ(asked, 4);
  EXPECT_EQ(alone.api->log.back(), "ncclAllReduce, 64 elements, axis data") << "not aborted";
}

TEST(NcclTransport, ARankThatDoesNotComeEndsTheStart) {
  const auto api = std::make_shared<FakeNccl>();
  api->answer = [](const std::string& call) { return call.starts_with("ncclCommInit") ? kNcclInProgress : 0; };
  api->state = [] { return kNcclInProgress; };
  QueueDevice device;
  NcclOptions o = options(0);
  o.start_s = 0.05;
  const auto [kind, text] = error_of([&] { make_nccl_transport(api, make_self_transport(), device, o); });
  EXPECT_EQ(kind, ErrorKind::Device);
  EXPECT_TRUE(text.starts_with("ncclCommInitRankConfig over axis data, rank 0 of 1: not accepted after 0.")) << text;
  EXPECT_EQ(api->log.back(), "ncclCommAbort axis data");
}

TEST(NcclTransport, AnIdThatIsNotMadeIsTold) {
  const auto api = std::make_shared<FakeNccl>();
  api->answer = [](const std::string& call) { return call == "ncclGetUniqueId" ? 2 : 0; };
  QueueDevice device;
  const auto [kind, text] = error_of([&] { make_nccl_transport(api, make_self_transport(), device, options(0)); });
  EXPECT_EQ(kind, ErrorKind::Device);
  EXPECT_EQ(text, "ncclGetUniqueId over axis data, rank 0 of 1: error 2");
}

// By every rank, whoever was to make it, and none begins to connect.
TEST(NcclTransport, AnIdThatAnotherRankDoesNotMakeIsTold) {
  const std::string of_all = "axis data, rank 0", of_a_direction = "axis data, messages from 1 to 2, rank 1";
  for (const int root : {0, 1}) {
    std::atomic<int> told = 0;
    const auto faults = test::on_ranks_over(3, [&](const std::shared_ptr<Transport>& control) -> std::string {
      const auto api = std::make_shared<FakeNccl>();
      if (control->rank() == root)
        api->answer = [](const std::string& call) { return call == "ncclGetUniqueId" ? 2 : 0; };
      QueueDevice device;
      const NcclOptions o = options(control->rank(), {{1, 2}});
      const std::string text = error_of([&] { make_nccl_transport(api, control, device, o); }).second;
      ++told;
      const auto end = std::chrono::steady_clock::now() + 5s;
      while (told < 3 && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(1ms);
      if (told < 3) abort_local(*control);  // somebody waits
      return text;
    });
    for (const std::string& fault : faults)
      EXPECT_EQ(fault, fmt::format("ncclGetUniqueId over {} of 3: error 2", root == 0 ? of_all : of_a_direction));
  }
}

// The first failure aborts, and is what every later call says, without asking NCCL again.
TEST(NcclTransport, AFailureAbortsOnce) {
  Alone alone;
  alone.api->answer = [](const std::string& call) { return call.starts_with("ncclAllReduce") ? 3 : 0; };
  const auto [kind, text] = error_of([&] { alone.all_reduce(); });
  EXPECT_EQ(kind, ErrorKind::PeerLost);
  EXPECT_EQ(text, "ncclAllReduce over axis data, rank 0 of 1: error 3");
  EXPECT_EQ(alone.api->log.back(), "ncclCommAbort axis data");
  const std::size_t calls = alone.api->log.size();
  alone.api->answer = nullptr;
  EXPECT_EQ(error_of([&] { alone.all_reduce(); }), (std::pair{ErrorKind::PeerLost, text}));
  alone.transport.reset();
  EXPECT_EQ(alone.api->log.size(), calls);
}

TEST(NcclTransport, WhatWeAskWronglyIsOurFault) {
  Alone alone;
  alone.api->answer = [](const std::string& call) { return call.starts_with("ncclAllReduce") ? kNcclInvalidUsage : 0; };
  EXPECT_EQ(error_of([&] { alone.all_reduce(); }).first, ErrorKind::Internal);
}

// An error between ncclGroupStart and ncclGroupEnd: the group is ended, and the call that failed is named.
TEST(NcclTransport, AFailureInAGroupEndsTheGroup) {
  Alone alone;
  alone.api->answer = [](const std::string& call) { return call.starts_with("ncclAllGather") ? 1 : 0; };
  const CallSite at("label", alone.stream.get());
  const std::vector<JoinedPart> parts{{32}, {32}};
  alone.api->log.clear();
  const auto [kind, text] = error_of([&] { alone.transport->whole(at)->all_gather(alone.x, alone.x, parts, at); });
  EXPECT_EQ(kind, ErrorKind::PeerLost);
  EXPECT_EQ(text, "ncclAllGather over axis data, rank 0 of 1: error 1");
  EXPECT_EQ(alone.api->log, (Log{"ncclGroupStart", "ncclAllGather, 32 elements, axis data",
                                 "ncclAllGather, 32 elements, axis data", "ncclGroupEnd", "ncclCommAbort axis data"}));
}

TEST(NcclTransport, RegistersAndCloses) {
  Alone alone;
  EXPECT_TRUE(alone.transport->register_memory(alone.memory.data(), 256));
  alone.api->log.clear();
  alone.transport->close();
  alone.transport.reset();
  EXPECT_EQ(alone.api->log,
            (Log{"ncclCommDeregister axis data", "ncclCommFinalize axis data", "ncclCommDestroy axis data"}));
}

// Whatever finalizing says, the state tells when NCCL is quiet; nobody asks for it once the communicator is freed, also
// where NCCL goes on freeing.
TEST(NcclTransport, IsFreedWhenItIsQuiet) {
  for (const int finalized : {kNcclSuccess, kNcclInProgress}) {
    for (const int destroyed : {kNcclSuccess, kNcclInProgress}) {
      Alone alone;
      alone.api->answer = [&](const std::string& call) {
        return call.starts_with("ncclCommFinalize") ? finalized : call.starts_with("ncclCommDestroy") ? destroyed : 0;
      };
      int asked = 0;
      alone.api->state = [&] {
        EXPECT_EQ(alone.api->log.back(), "ncclCommFinalize axis data");
        return ++asked < 4 ? kNcclInProgress : kNcclSuccess;
      };
      alone.transport->close();
      alone.transport.reset();
      EXPECT_EQ(asked, 4);
      EXPECT_EQ(alone.api->log.back(), "ncclCommDestroy axis data") << "not aborted";
    }
  }
}

TEST(NcclTransport, FailuresOfClosingAreTold) {
  NcclOptions o = options(0);
  o.start_s = 0.05;
  Alone never(o);
  never.api->state = [] { return kNcclInProgress; };
  const auto [kind, text] = error_of([&] { never.transport->close(); });
  EXPECT_EQ(kind, ErrorKind::PeerLost);
  EXPECT_TRUE(text.starts_with("ncclCommFinalize over axis data, rank 0 of 1: not accepted after 0.")) << text;
  EXPECT_EQ(never.api->log.back(), "ncclCommAbort axis data");

  Alone lost;
  lost.api->state = [] { return kNcclRemoteError; };
  EXPECT_EQ(error_of([&] { lost.transport->close(); }),
            (std::pair{ErrorKind::PeerLost, std::string("ncclCommFinalize over axis data, rank 0 of 1: error 6")}));
  EXPECT_EQ(lost.api->log.back(), "ncclCommAbort axis data");

  Alone broken;
  broken.api->answer = [](const std::string& call) { return call.starts_with("ncclCommDestroy") ? 3 : 0; };
  EXPECT_EQ(error_of([&] { broken.transport->close(); }),
            (std::pair{ErrorKind::PeerLost, std::string("ncclCommDestroy over axis data, rank 0 of 1: error 3")}));
  broken.transport.reset();
  EXPECT_EQ(broken.api->log.back(), "ncclCommDestroy axis data") << "a communicator is freed once";
}

TEST(NcclTransport, MemoryThatIsNotRegisteredIsUsedAllTheSame) {
  Alone alone;
  alone.api->answer = [](const std::string& call) { return call.starts_with("ncclCommRegister") ? 1 : 0; };
  EXPECT_FALSE(alone.transport->register_memory(alone.memory.data(), 256));
  alone.all_reduce();
  alone.api->log.clear();
  alone.transport->close();
  EXPECT_EQ(alone.api->log, (Log{"ncclCommFinalize axis data", "ncclCommDestroy axis data"}));
}

// Destructors never communicate.
TEST(NcclTransport, WithoutCloseItIsAborted) {
  Alone alone;
  alone.api->log.clear();
  alone.transport.reset();
  EXPECT_EQ(alone.api->log, (Log{"ncclCommAbort axis data"}));
}

TEST(NcclTransport, RanksThatShareADeviceAreNamed) {
  const auto world = std::make_shared<FakeNcclWorld>();
  const auto faults = test::on_ranks_over(3, [&](const std::shared_ptr<Transport>& control) -> std::string {
    QueueDevice device;
    const auto [kind, text] = error_of([&] {
      make_nccl_transport(std::make_shared<FakeNccl>(world), control, device,
                          options(control->rank() == 2 ? 0 : control->rank()));
    });
    return kind == ErrorKind::Device ? text : "another kind";
  });
  for (const std::string& fault : faults)
    EXPECT_TRUE(fault.starts_with("ranks 0 and 2 of axis data share the device ")) << fault;
}

TEST(NcclTransport, NeedsTheStreamOfADevice) {
  Alone alone;
  const auto cpu = make_cpu_device(1);
  const auto stream = cpu->make_stream(StreamKind::Compute);
  const CallSite at("label", stream.get());
  const auto [kind, text] = error_of([&] { alone.transport->whole(at)->all_reduce(alone.x, ReduceOp::Sum, at); });
  EXPECT_EQ(kind, ErrorKind::Internal);
  EXPECT_EQ(text, "all_reduce 'label': NCCL needs the stream of a CUDA device");
  EXPECT_EQ(alone.transport->whole({}), nullptr) << "host memory goes over the control transport";
}

// A watchdog that reports once.
struct Watched {
  Watchdog watchdog{0, 1, nullptr};
  std::atomic<bool> reported = false;
  std::string text;
  std::shared_ptr<WatchedGroup> group = watchdog.watch("data", {0});
  void start() {
    watchdog.start([this](const Stall& stall) {
      text = stall.text;
      reported = true;
    });
  }
  bool reports_within(std::chrono::milliseconds time) const {
    const auto end = std::chrono::steady_clock::now() + time;
    while (!reported && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(5ms);
    return reported;
  }
};

TEST(NcclTransport, TheWatchdogFindsWhatFailsOnTheDevice) {
  Watched watched;
  Alone alone(options(0), watched.group);
  std::atomic<int> state = kNcclSuccess;
  alone.api->state = [&] { return state.load(); };
  watched.start();
  alone.all_reduce();
  EXPECT_FALSE(watched.reports_within(150ms));
  state = kNcclRemoteError;
  ASSERT_TRUE(watched.reports_within(5s));
  EXPECT_EQ(watched.text, "work on the device over axis data, rank 0 of 1: error 6");
  EXPECT_EQ(error_of([&] { alone.all_reduce(); }), (std::pair{ErrorKind::PeerLost, watched.text}));
  EXPECT_EQ(alone.api->log.back(), "ncclCommAbort axis data");
}

// In a step with a short deadline, a device that has come to nothing yet.
struct WatchedQueue {
  Watched watched;
  Alone alone{options(0), watched.group};
  Watchdog::InStep step{watched.watchdog};
  WatchedQueue() {
    watched.watchdog.set_deadline(0.4);
    alone.device.reached = 0;
    watched.start();
  }
};

// A call counts from the time when the device comes to it.
TEST(NcclTransport, TheWatchdogKnowsWhatTheDeviceWaitsFor) {
  WatchedQueue queue;
  queue.alone.all_reduce("reduce.bucket0");  // its events are places 1 and 2
  queue.alone.all_reduce("reduce.bucket1");  // 3 and 4
  EXPECT_FALSE(queue.watched.reports_within(900ms)) << "the device computes";
  queue.alone.device.reached = 3;
  ASSERT_TRUE(queue.watched.reports_within(10s));
  EXPECT_TRUE(
      queue.watched.text.starts_with("all_reduce 'reduce.bucket1' over axis data, call 2, 256 bytes: not complete"))
      << queue.watched.text;
}

// However far the host is ahead.
TEST(NcclTransport, TheWatchdogKnowsEveryCallInTheQueue) {
  WatchedQueue queue;
  for (int call = 0; call < 300; ++call) queue.alone.all_reduce();
  queue.alone.device.reached = 2 * 199 + 1;  // within call 200
  ASSERT_TRUE(queue.watched.reports_within(10s));
  EXPECT_TRUE(queue.watched.text.starts_with("all_reduce 'sum' over axis data, call 200, ")) << queue.watched.text;
}

TEST(NcclLibrary, OpensOrSaysWhyNot) {
  try {
    EXPECT_TRUE(std::isdigit(static_cast<unsigned char>(open_nccl()->version().front())) != 0);
    EXPECT_TRUE(nccl_is_built());
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), nccl_is_built() ? ErrorKind::Device : ErrorKind::Config);
    EXPECT_TRUE(std::string(error.what()).starts_with("comm.transport nccl: ")) << error.what();
  }
}

}  // namespace
}  // namespace plimsoll
