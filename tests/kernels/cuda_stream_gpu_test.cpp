// Streams of a GPU: times on its own clock, and captures that fail.

#include <gtest/gtest.h>

#include "kernels/cuda_module.hpp"
#include "runtime/core/error.hpp"
#include "runtime/device/arena.hpp"
#include "tests/support/missing_gpu.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kBytes = std::int64_t{256} << 20;

class CudaStreams : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto missing = test::missing_gpu()) GTEST_SKIP() << *missing;
    device_ = cuda_module().make_device({});
    arena_ = std::make_unique<Arena>(*device_, kBytes);
    stream_ = device_->make_stream(StreamKind::Compute);
    fill_ = {stream_.get(), arena_->base(), 0};
  }
  // Some tenths of a millisecond of work at most.
  void launch_fill(std::uint8_t byte) {
    fill_.byte = byte;
    stream_->launch({[](void* f) {
                       const auto* mine = static_cast<const Fill*>(f);
                       mine->stream->fill(mine->memory, mine->byte, kBytes);
                     },
                     &fill_});
  }
  int first_byte() {
    stream_->synchronize();
    std::uint8_t byte = 0;
    device_->copy_to_host(&byte, arena_->base(), 1);
    return byte;
  }

  struct Fill {
    Stream* stream = nullptr;
    void* memory = nullptr;
    std::uint8_t byte = 0;
  };
  Fill fill_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<Stream> stream_;
};

TEST_F(CudaStreams, TimersSayWhenAndHowLong) {
  EXPECT_TRUE(stream_->only_launches());
  const auto first = device_->make_timer(), second = device_->make_timer();
  for (int round = 0; round < 3; ++round) {  // used again
    for (Timer* timer : {first.get(), second.get()}) {
      timer->start(*stream_);
      launch_fill(1);
      timer->stop(*stream_);
    }
    stream_->synchronize();
    EXPECT_TRUE(first->done() && second->done());
    EXPECT_GT(first->seconds(), 1e-6);
    EXPECT_LT(first->seconds(), 1);
    EXPECT_GE(second->seconds_after(*first), first->seconds() - 2e-6);
    EXPECT_LT(second->seconds_after(*first), 1);
  }
  // A timer that is not done is no error of the launch that follows.
  for (int i = 0; i < 50; ++i) launch_fill(2);
  second->start(*stream_);
  second->stop(*stream_);
  second->done();
  launch_fill(3);
  EXPECT_EQ(first_byte(), 3);
}

// What cannot be recorded leaves the stream, and the calls that follow, as they were.
TEST_F(CudaStreams, AFailedCaptureIsDropped) {
  launch_fill(1);
  ASSERT_TRUE(stream_->begin_capture());
  launch_fill(2);
  const Task waits{[](void* s) { static_cast<Stream*>(s)->catch_up(); }, stream_.get()};
  EXPECT_THROW(stream_->launch(waits), Error) << "a host that waits cannot be recorded";
  stream_->drop_capture();
  EXPECT_EQ(first_byte(), 1) << "what was recorded is not done";
  launch_fill(3);
  EXPECT_EQ(first_byte(), 3);
  ASSERT_TRUE(stream_->begin_capture());
  launch_fill(4);
  EXPECT_THROW(stream_->launch(waits), Error);
  EXPECT_THROW(stream_->end_capture(), Error);
  stream_->drop_capture();
  ASSERT_TRUE(stream_->begin_capture());
  launch_fill(5);
  const auto recording = stream_->end_capture();
  EXPECT_EQ(first_byte(), 3);
  stream_->replay(*recording);
  EXPECT_EQ(first_byte(), 5);
}

}  // namespace
}  // namespace plimsoll
