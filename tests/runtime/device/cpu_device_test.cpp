#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "runtime/core/error.hpp"
#include "runtime/device/cpu_stream.hpp"
#include "runtime/device/device.hpp"

namespace plimsoll {
namespace {

using namespace std::chrono_literals;

struct Step {
  std::vector<int>* order;
  int value;
  std::chrono::milliseconds delay{0};
  static void run(void* argument) {
    auto& step = *static_cast<Step*>(argument);
    if (step.delay > 0ms) std::this_thread::sleep_for(step.delay);
    step.order->push_back(step.value);
  }
  Task task() { return {&Step::run, this}; }
};

Task throwing() {
  return {[](void*) { fail(ErrorKind::PeerLost, "rank 3 is gone"); }, nullptr};
}

// What runs before start() and after stop() does not count; what a task throws comes out where the time is asked for.
TEST(CpuStream, TimersMeasureWhatLiesBetween) {
  const auto device = make_cpu_device(1);
  for (const StreamKind kind : {StreamKind::Compute, StreamKind::Copy}) {
    const auto stream = device->make_stream(kind);
    const auto timer = device->make_timer();
    std::vector<int> order;
    Step before{&order, 0, 60ms}, timed{&order, 1, 20ms}, after{&order, 2, 60ms};
    stream->launch(before.task());
    timer->start(*stream);
    stream->launch(timed.task());
    timer->stop(*stream);
    stream->launch(after.task());
    const double seconds = timer->seconds();
    EXPECT_GE(seconds, 0.020);
    EXPECT_LT(seconds, 0.060);
    stream->synchronize();
  }
  const auto stream = device->make_stream(StreamKind::Copy);
  const auto timer = device->make_timer();
  timer->start(*stream);
  stream->launch(throwing());
  timer->stop(*stream);
  EXPECT_THROW(timer->seconds(), Error);
}

TEST(CpuStream, TasksRunInOrderAlsoWhenTheRingIsFull) {
  const auto device = make_cpu_device(1);
  const auto stream = device->make_stream(StreamKind::Communication);
  std::vector<int> order;
  Step slow{&order, 0, 20ms};
  stream->launch(slow.task());
  std::vector<Step> steps;
  for (int i = 1; i < 3 * kStreamCapacity; ++i) steps.push_back({&order, i});
  for (Step& step : steps) stream->launch(step.task());
  stream->synchronize();
  std::vector<int> expected(3 * kStreamCapacity);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(order, expected);
}

TEST(CpuStream, EventsOrderTwoStreamsWithoutTheHost) {
  const auto device = make_cpu_device(1);
  const auto first = device->make_stream(StreamKind::Communication);
  const auto second = device->make_stream(StreamKind::Communication);
  const auto event = device->make_event();
  EXPECT_TRUE(event->ready());
  std::vector<int> order;
  Step a{&order, 1, 50ms};
  Step b{&order, 2};
  first->launch(a.task());
  first->record(*event);
  EXPECT_FALSE(event->ready());
  second->wait(*event);
  second->launch(b.task());
  second->synchronize();
  EXPECT_TRUE(event->ready());
  EXPECT_EQ(order, (std::vector<int>{1, 2}));
}

TEST(CpuStream, ComputeStreamIsInlineAndItsWaitBlocksTheHost) {
  const auto device = make_cpu_device(1);
  const auto compute = device->make_stream(StreamKind::Compute);
  const auto communication = device->make_stream(StreamKind::Communication);
  const auto event = device->make_event();
  std::vector<int> order;
  Step a{&order, 1};
  Step b{&order, 2, 10ms};
  Step c{&order, 3};
  compute->launch(a.task());
  EXPECT_EQ(order, std::vector<int>{1});
  compute->record(*event);
  EXPECT_TRUE(event->ready());
  communication->wait(*event);
  communication->launch(b.task());
  communication->record(*event);
  compute->wait(*event);
  compute->launch(c.task());
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
}

TEST(CpuStream, AnExceptionFailsTheStreamAndWhoeverWaitsForIt) {
  const auto device = make_cpu_device(1);
  const auto stream = device->make_stream(StreamKind::Communication);
  const auto other = device->make_stream(StreamKind::Communication);
  const auto before = device->make_event();
  const auto after = device->make_event();
  std::vector<int> order;
  Step a{&order, 1};
  Step b{&order, 2};
  stream->launch(a.task());
  stream->record(*before);
  stream->launch(throwing());
  stream->record(*after);
  stream->launch(b.task());
  other->wait(*after);
  EXPECT_NO_THROW(before->synchronize());
  EXPECT_THROW(after->synchronize(), Error);
  EXPECT_THROW(stream->synchronize(), Error);
  try {
    other->synchronize();
    FAIL() << "the second stream did not see the error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::PeerLost);
    EXPECT_STREQ(error.what(), "rank 3 is gone");
  }
  EXPECT_EQ(order, std::vector<int>{1}) << "a task ran behind the failed one";
}

TEST(CpuStream, DestructionStopsATaskThatWaits) {
  struct Flags {
    std::atomic<bool> started{false};
    std::atomic<bool> stopped{false};
  } flags;
  {
    const auto stream = make_worker_stream();
    stream->launch({[](void* argument) {
                      auto& f = *static_cast<Flags*>(argument);
                      f.started = true;
                      while (!stop_requested()) std::this_thread::sleep_for(1ms);
                      f.stopped = true;
                    },
                    &flags});
    while (!flags.started) std::this_thread::sleep_for(1ms);
  }
  EXPECT_TRUE(flags.stopped);
  EXPECT_FALSE(stop_requested());
}

TEST(CpuDevice, MemoryIsAlignedZeroedAndCopied) {
  const auto device = make_cpu_device(2);
  EXPECT_EQ(device->kind(), "cpu");
  EXPECT_NE(device->description().find("2 threads"), std::string::npos);
  for (const std::int64_t bytes : {std::int64_t{0}, std::int64_t{5}, std::int64_t{5} << 20}) {
    auto* memory = static_cast<std::uint8_t*>(device->allocate(bytes));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory) % 4096, 0U);
    if (bytes > 0) {
      const std::vector<std::uint8_t> host(static_cast<std::size_t>(bytes), 7);
      std::vector<std::uint8_t> back(host.size());
      EXPECT_EQ(memory[bytes - 1], 0);
      device->copy_to_device(memory, host.data(), bytes);
      device->fill(memory, 9, 1);
      device->copy_to_host(back.data(), memory, bytes);
      EXPECT_EQ(back.front(), 9);
      EXPECT_EQ(back.back(), 7);
    }
    device->release(memory, bytes);
  }
}

TEST(CpuDevice, ReportsMemoryAndRefusesMoreThanThereIs) {
  const auto device = make_cpu_device(1);
  const DeviceMemory memory = device->memory();
  EXPECT_GT(memory.free_bytes, 0);
  EXPECT_LE(memory.free_bytes, memory.total_bytes);
  try {
    device->allocate(memory.total_bytes + 1);
    FAIL() << "allocated more than the machine has";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::OutOfMemory);
    EXPECT_NE(std::string(error.what()).find("bytes"), std::string::npos);
  }
}

}  // namespace
}  // namespace plimsoll
