// The NCCL transport with the library itself: one rank, and two where there are two GPUs. What it makes of answers and
// failures is tested without a GPU (nccl_transport_test.cpp).

#include <gtest/gtest.h>

#include <numeric>

#include "comm/nccl_communicator.hpp"
#include "comm/nccl_transport.hpp"
#include "kernels/cuda_module.hpp"
#include "runtime/device/arena.hpp"
#include "tests/comm/collectives_suite.hpp"
#include "tests/support/local_ranks.hpp"
#include "tests/support/missing_gpu.hpp"

namespace plimsoll {
namespace {

NcclOptions options_of(int rank) { return {"data", fmt::format("GPU {}", rank), {}, 60}; }

class NcclOnGpu : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto missing = test::missing_gpu()) GTEST_SKIP() << *missing;
    try {
      api_ = open_nccl();
    } catch (const Error& e) {  // a library that is not here
      GTEST_SKIP() << e.what();
    }
    devices_ = static_cast<int>(cuda_module().devices().size());
    device_ = cuda_module().make_device({});
    stream_ = device_->make_stream(StreamKind::Communication);
  }
  std::shared_ptr<NcclTransport> alone() const {
    return make_nccl_transport(api_, make_self_transport(), *device_, options_of(0));
  }
  void run(const std::function<void(const CallSite&)>& call) const { run_on(*stream_, call); }

  int devices_ = 0;
  std::unique_ptr<Device> device_;
  std::shared_ptr<NcclApi> api_;
  std::unique_ptr<Stream> stream_;
};

// Floats on the device, 0, 1, 2, …, that are read back.
class DeviceFloats {
 public:
  DeviceFloats(Device& device, std::int64_t count)
      : device_(device),
        host_(static_cast<std::size_t>(count)),
        view_{device.allocate(bytes()), {{count}, DType::f32}} {
    std::iota(host_.begin(), host_.end(), 0.0F);
    device.copy_to_device(view_.data, host_.data(), bytes());
  }
  ~DeviceFloats() { device_.release(view_.data, bytes()); }
  DeviceFloats(const DeviceFloats&) = delete;
  DeviceFloats& operator=(const DeviceFloats&) = delete;
  View view(std::int64_t first, std::int64_t count) const { return {view_.as<float>() + first, {{count}, DType::f32}}; }
  View view() const { return view_; }
  std::vector<float> read() {
    device_.copy_to_host(host_.data(), view_.data, bytes());
    return host_;
  }

 private:
  std::int64_t bytes() const { return static_cast<std::int64_t>(host_.size() * sizeof(float)); }
  Device& device_;
  std::vector<float> host_;
  View view_;
};

std::vector<float> rising(std::int64_t count) {
  std::vector<float> all(static_cast<std::size_t>(count));
  std::iota(all.begin(), all.end(), 0.0F);
  return all;
}

TEST_F(NcclOnGpu, OneRankHasTheCollectivesOfTheSuite) {
  const auto transport = alone();
  const Group group("data", transport);
  for (const SuiteCase& c : kCollectiveSuite) EXPECT_EQ(c.check(SuiteGroup(group, *device_)), "") << c.name;
  transport->close();
}

// What a group of one rank does not ask of its transport, and what a transport asks of several ranks only.
TEST_F(NcclOnGpu, OneRankHasEveryCall) {
  constexpr std::int64_t kCount = 1000;
  const auto transport = alone();
  DeviceFloats x(*device_, kCount), y(*device_, kCount);
  device_->fill(y.view().data, 0, kCount * 4);
  run([&](const CallSite& at) {
    WholeCollectives* whole = transport->whole(at);
    ASSERT_NE(whole, nullptr);
    EXPECT_TRUE(whole->all_reduce(x.view(), ReduceOp::Sum, at));
    EXPECT_TRUE(whole->all_reduce(x.view(), ReduceOp::Max, at));
    EXPECT_TRUE(whole->all_reduce(x.view(), ReduceOp::Sum, std::vector<ElementRange>{{3, 10}, {20, 0}, {30, 400}}, at));
    EXPECT_TRUE(whole->reduce_scatter(x.view(), y.view(), ReduceOp::Sum, RankCuts{}, at));
    EXPECT_TRUE(whole->all_gather(y.view(), y.view(), RankCuts{0, kCount}, at));
  });
  EXPECT_EQ(x.read(), rising(kCount));
  EXPECT_EQ(y.read(), rising(kCount));
  EXPECT_EQ(transport->bytes_sent(), 0);
  transport->close();

  NcclId id{};
  ASSERT_EQ(api_->get_unique_id(id), kNcclSuccess);
  NcclCommunicator comm(*api_, "calls", id, 0, 1, [] { return 60.0; });
  device_->fill(y.view().data, 0, kCount * 4);
  void* stream = stream_->native_handle();
  run([&](const CallSite&) {
    comm.group([&](const auto& add) {
      add(api_->send(x.view().data, 200, NcclType::f32, 0, comm.get(), stream), "ncclSend");
      add(api_->recv(y.view().data, 200, NcclType::f32, 0, comm.get(), stream), "ncclRecv");
      add(api_->broadcast(x.view(200, 200).data, y.view(200, 200).data, 200, NcclType::f32, 0, comm.get(), stream),
          "ncclBroadcast");
      add(api_->reduce(x.view(400, 600).data, y.view(400, 600).data, 600, NcclType::f32, NcclOp::Sum, 0, comm.get(),
                       stream),
          "ncclReduce");
    });
  });
  EXPECT_EQ(y.read(), rising(kCount));
  EXPECT_EQ(comm.fault(), std::nullopt);
  comm.close();
}

TEST_F(NcclOnGpu, AnArenaIsRegisteredAndCommunicatorsAreFreed) {
  for (int again = 0; again < 2; ++again) {
    Arena arena(*device_, std::int64_t{16} << 20);
    device_->fill(arena.base(), 0, arena.bytes());
    const auto transport = alone();
    if (!transport->register_memory(arena.base(), arena.bytes())) transport->deregister_memory();
    const View x{arena.base(), {{1 << 20}, DType::f32}};
    run([&](const CallSite& at) { EXPECT_TRUE(transport->whole(at)->all_reduce(x, ReduceOp::Sum, at)); });
    transport->close();
    transport->close();  // once is enough
  }
}

// What is not closed is aborted, and the device goes on.
TEST_F(NcclOnGpu, AnAbortedCommunicatorLeavesTheDevice) {
  DeviceFloats x(*device_, 1000);
  auto transport = alone();
  run([&](const CallSite& at) { transport->whole(at)->all_reduce(x.view(), ReduceOp::Sum, at); });
  transport.reset();
  EXPECT_EQ(x.read(), rising(1000));

  NcclId id{};
  ASSERT_EQ(api_->get_unique_id(id), kNcclSuccess);
  NcclCommunicator comm(*api_, "aborted", id, 0, 1, [] { return 60.0; });
  comm.abort();
  EXPECT_EQ(comm.get(), nullptr);
  EXPECT_EQ(comm.fault(), std::nullopt);
  comm.close();  // there is nothing left to close

  transport = alone();
  run([&](const CallSite& at) { transport->whole(at)->all_reduce(x.view(), ReduceOp::Sum, at); });
  transport->close();
  EXPECT_EQ(x.read(), rising(1000));
}

TEST_F(NcclOnGpu, ARankThatDoesNotComeEndsTheStart) {
  NcclId id{};
  ASSERT_EQ(api_->get_unique_id(id), kNcclSuccess);
  try {
    const NcclCommunicator comm(*api_, "axis data", id, 0, 2, [] { return 2.0; });
    FAIL() << "it is alone";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::Device);
    EXPECT_TRUE(std::string_view(error.what())
                    .starts_with("ncclCommInitRankConfig over axis data, rank 0 of 2: not accepted after 2."))
        << error.what();
  }
}

// Of two numbers a sum is the same in any order. NCCL's largest number is not NaN where one of them is.
TEST_F(NcclOnGpu, TwoRanksHaveTheCollectivesOfTheSuite) {
  if (devices_ < 2) GTEST_SKIP() << "there is one GPU: NCCL gives each rank one of its own";
  for (const SuiteCase& c : kCollectiveSuite) {
    if (std::string_view(c.name) == "nan") continue;
    const auto faults = test::on_ranks_over(2, [&](const std::shared_ptr<Transport>& control) {
      const int rank = control->rank();
      const auto device = cuda_module().make_device({rank});
      const auto transport = make_nccl_transport(open_nccl(), control, *device, options_of(rank));
      std::string fault = c.check(SuiteGroup(Group("data", transport), *device));
      transport->close();
      return fault;
    });
    for (std::size_t r = 0; r < faults.size(); ++r) EXPECT_EQ(faults[r], "") << c.name << ", rank " << r;
  }
}

}  // namespace
}  // namespace plimsoll
