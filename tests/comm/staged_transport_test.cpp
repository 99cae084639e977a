// Collectives of memory that the host does not reach, through host memory.

#include "comm/staged_transport.hpp"

#include <gtest/gtest.h>

#include "tests/comm/collectives_suite.hpp"
#include "tests/support/far_device.hpp"
#include "tests/support/forwarding_device.hpp"
#include "tests/support/local_ranks.hpp"

namespace plimsoll {
namespace {

using test::FarDevice;

// body(group, device) on ranks that share a device, with pieces of so many bytes.
std::vector<std::string> on_staged_ranks(int ranks, std::int64_t piece_bytes,
                                         const std::function<std::string(const SuiteGroup&)>& body) {
  FarDevice device;
  return test::on_ranks_over(ranks, [&](const std::shared_ptr<Transport>& below) {
    const Group group("data", make_staged_transport(below, device, {false, piece_bytes}));
    return body(SuiteGroup(group, device));
  });
}

struct StagedCase {
  int ranks;
  std::int64_t piece_bytes;
};
class StagedTransportSuite : public testing::TestWithParam<StagedCase> {};

TEST_P(StagedTransportSuite, AllCollectives) {
  for (const SuiteCase& c : kCollectiveSuite) {
    const auto faults = on_staged_ranks(GetParam().ranks, GetParam().piece_bytes, c.check);
    for (std::size_t r = 0; r < faults.size(); ++r) EXPECT_EQ(faults[r], "") << c.name << ", rank " << r;
  }
}

// Pieces that hold whole tensors of the suite, that cut them into a few, and (of several ranks) whose parts end
// unevenly.
INSTANTIATE_TEST_SUITE_P(Ranks, StagedTransportSuite,
                         testing::Values(StagedCase{1, 1 << 20}, StagedCase{2, kStagedPieceBytes},
                                         StagedCase{3, 100000}),
                         [](const testing::TestParamInfo<StagedCase>& c) {
                           return fmt::format("ranks{}_pieces{}", c.param.ranks, c.param.piece_bytes);
                         });

// The CPU, with the bytes that it was asked to copy.
class CopyingDevice final : public test::ForwardingDevice {
 public:
  CopyingDevice() : ForwardingDevice(make_cpu_device(1)) {}
  std::atomic<std::int64_t> copied_bytes = 0;
  void copy_to_device(void* device, const void* host, std::int64_t bytes) override {
    copied_bytes += bytes;
    ForwardingDevice::copy_to_device(device, host, bytes);
  }
  void copy_to_host(void* host, const void* device, std::int64_t bytes) override {
    copied_bytes += bytes;
    ForwardingDevice::copy_to_host(host, device, bytes);
  }
};

// What calls on 1000 floats and this rank's 500 have copied: a sum, one in parts, a gather, one in place, a message.
std::string copied_bytes(const std::shared_ptr<Transport>& below, bool direct) {
  CopyingDevice device;
  const Group group("data", make_staged_transport(below, device, {direct, 1024}));
  const auto stream = device.make_stream(StreamKind::Communication);
  std::vector<float> memory(1000), part(500);
  std::vector<std::byte> scratch(static_cast<std::size_t>(reduce_scratch_bytes(2)));
  const View whole{memory.data(), {{1000}, DType::f32}}, mine{part.data(), {{500}, DType::f32}};
  std::vector<std::int64_t> copied;
  const auto count = [&](const std::function<void(const CallSite&)>& call) {
    const std::int64_t before = device.copied_bytes;
    run_on(*stream, call);
    copied.push_back(device.copied_bytes - before);
  };
  count([&](const CallSite& at) { group.all_reduce(whole, ReduceOp::Sum, scratch.data(), at); });
  count([&](const CallSite& at) { group.reduce_scatter(whole, mine, ReduceOp::Sum, scratch.data(), at); });
  count([&](const CallSite& at) { group.all_gather(mine, whole, at); });
  count([&](const CallSite& at) { group.all_gather({&memory[500U * group.rank()], mine.spec}, whole, at); });
  count([&](const CallSite& at) { group.rank() == 0 ? group.send(whole, 1, at) : group.receive(whole, 0, at); });
  return fmt::format("{}", fmt::join(copied, " "));
}

// Where the transport below reaches the device's memory, what is only moved is not copied; sums are still made on the
// host. The "device" is the CPU: its memory is within everybody's reach.
TEST(StagedTransport, MovesDirectlyWhereItCan) {
  const auto device = make_cpu_device(1);
  constexpr SuiteCase kCases[] = {{"f32", check_dtype<float>}, {"bf16", check_dtype<bf16>}};
  for (const SuiteCase& c : kCases) {
    const auto faults = test::on_ranks_over(3, [&](const std::shared_ptr<Transport>& below) {
      const Group group("data", make_staged_transport(below, *device, {true, 100000}));
      return c.check(SuiteGroup(group, *device));
    });
    for (std::size_t r = 0; r < faults.size(); ++r) EXPECT_EQ(faults[r], "") << c.name << ", rank " << r;
  }
  for (const bool direct : {false, true}) {
    const auto copied =
        test::on_ranks_over(2, [&](const std::shared_ptr<Transport>& below) { return copied_bytes(below, direct); });
    for (const std::string& bytes : copied)
      EXPECT_EQ(bytes, direct ? "8000 6000 4000 0 0" : "8000 6000 6000 4000 4000");
  }
}

// What the task has asked its stream for is done before anything is copied out.
TEST(StagedTransport, CatchesUpWithItsStream) {
  // Does what it is asked for when it has to.
  struct LazyStream final : Stream {
    std::function<void()> asked;
    void launch(Task task) override { task.run(task.argument); }
    void fill(void* device, std::uint8_t byte, std::int64_t bytes) override {
      asked = [=] { std::memset(device, byte, static_cast<std::size_t>(bytes)); };
    }
    void catch_up() override { asked(); }
    void record(Event&) override {}
    void wait(const Event&) override {}
    void synchronize() override {}
  };
  const auto device = make_cpu_device(1);
  const auto faults = test::on_ranks_over(2, [&](const std::shared_ptr<Transport>& below) -> std::string {
    const Group group("data", make_staged_transport(below, *device));
    LazyStream stream;
    const CallSite at("label", &stream);
    std::array<std::int32_t, 4> x{};
    const View all{x.data(), {{4}, DType::i32}};
    const auto ask = [&] { stream.fill(x.data(), static_cast<std::uint8_t>(group.rank() + 1), 16); };
    ask();
    std::vector<std::byte> scratch(static_cast<std::size_t>(reduce_scratch_bytes(2)));
    group.all_reduce(all, ReduceOp::Sum, scratch.data(), at);
    if (x[3] != 0x03030303) return fmt::format("all_reduce gave {:x}", x[3]);
    ask();
    group.all_gather({x.data() + 2 * group.rank(), {{2}, DType::i32}}, all, at);
    if (x[0] != 0x01010101 || x[3] != 0x02020202) return fmt::format("all_gather gave {:x} and {:x}", x[0], x[3]);
    ask();
    std::array<std::int32_t, 2> part{};
    group.reduce_scatter(all, {part.data(), {{2}, DType::i32}}, ReduceOp::Sum, scratch.data(), at);
    if (part[1] != 0x03030303) return fmt::format("reduce_scatter gave {:x}", part[1]);
    ask();
    if (group.rank() == 0) group.send(all, 1, at);
    if (group.rank() == 1) group.receive(all, 0, at);
    return group.rank() == 0 || x[3] == 0x01010101 ? "" : fmt::format("receive gave {:x}", x[3]);
  });
  EXPECT_EQ(faults[0], "");
  EXPECT_EQ(faults[1], "");
}

// A rank fails in the middle of a tensor of many pieces: all ranks end, and no copy outlives the call (sanitizers).
TEST(StagedTransport, FailingRankReleasesOthers) {
  const auto faults = on_staged_ranks(3, 4096, [](const SuiteGroup& g) -> std::string {
    std::vector<std::byte> scratch(static_cast<std::size_t>(reduce_scratch_bytes(g.size())));
    for (int round = 0;; ++round) {
      require(g.rank() != 2 || round < 3, ErrorKind::Numerical, "rank 2 has had enough");
      Guarded<float> x(50001);
      g.all_reduce(x.view(), ReduceOp::Sum, scratch.data());
    }
  });
  EXPECT_EQ(faults[2], "rank 2 has had enough");
  for (const std::size_t r : {0U, 1U}) EXPECT_NE(faults[r].find("failed"), std::string::npos) << faults[r];
}

// What a device cannot copy ends the call with the device's text, and the next call works.
TEST(StagedTransport, ACopyThatFailsIsTold) {
  FarDevice device;
  const auto faults = test::on_ranks_over(1, [&](const std::shared_ptr<Transport>& below) -> std::string {
    struct Broken final : Device {
      explicit Broken(Device& d) : to(d) {}
      Device& to;
      bool broken = true;
      std::string_view kind() const override { return to.kind(); }
      std::string description() const override { return to.description(); }
      DeviceMemory memory() const override { return to.memory(); }
      std::unique_ptr<Stream> make_stream(StreamKind kind) override { return to.make_stream(kind); }
      std::unique_ptr<Event> make_event() override { return to.make_event(); }
      void* allocate(std::int64_t bytes) override { return to.allocate(bytes); }
      void release(void* memory, std::int64_t bytes) noexcept override { to.release(memory, bytes); }
      void* allocate_host(std::int64_t bytes) override { return to.allocate_host(bytes); }
      void release_host(void* memory, std::int64_t bytes) noexcept override { to.release_host(memory, bytes); }
      void copy_to_device(void* device, const void* host, std::int64_t bytes) override {
        to.copy_to_device(device, host, bytes);
      }
      void copy_to_host(void* host, const void* device, std::int64_t bytes) override {
        require(!broken, ErrorKind::Device, "the copy of {} bytes failed", bytes);
        to.copy_to_host(host, device, bytes);
      }
      void fill(void* device, std::uint8_t byte, std::int64_t bytes) override { to.fill(device, byte, bytes); }
    } broken(device);
    const auto transport = make_staged_transport(below, broken, {false, 1024});
    const auto stream = device.make_stream(StreamKind::Compute);
    const CallSite at("label", stream.get());
    void* memory = device.allocate(8192);
    const View x{memory, {{2048}, DType::f32}};
    std::string found;
    try {
      transport->whole(at)->all_reduce(x, ReduceOp::Sum, at);
    } catch (const Error& error) {
      found = error.what();
    }
    broken.broken = false;
    transport->whole(at)->all_reduce(x, ReduceOp::Sum, at);
    device.release(memory, 8192);
    return found;
  });
  EXPECT_EQ(faults[0], "the copy of 1024 bytes failed");
}

TEST(StagedTransport, HostMemoryIsWhatItSays) {
  EXPECT_EQ(staged_host_bytes(1), 4 * kStagedPieceBytes);
  EXPECT_EQ(staged_host_bytes(2, {false, 1 << 20}), (4 << 20) + 2 * (1 << 19));
}

TEST(StagedTransport, PiecesHaveRoomForEveryRank) {
  const auto device = make_cpu_device(1);
  EXPECT_THROW(make_staged_transport(std::make_shared<FakeTransport>(0, 64), *device, {false, 256}), Error);
}

}  // namespace
}  // namespace plimsoll
