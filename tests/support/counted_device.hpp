#pragma once
// A device as it is, whose streams count what they record and replay, and fail to record where a test wants that.

#include <atomic>
#include <memory>
#include <utility>

#include "runtime/core/error.hpp"
#include "tests/support/forwarding_device.hpp"

namespace plimsoll::test {

// Where a capture fails: when it begins, at its third task, or when it ends.
enum class CaptureFault { Begin, Task, End };

struct RecordingCounts {
  std::atomic<std::int64_t> captures = 0, replays = 0;  // captures: those that succeeded
  std::atomic<std::int64_t> failing = 0;                // of those that are to come
  CaptureFault fault = CaptureFault::End;
  std::atomic<bool> broken = false;  // every launch fails
};

// `counts` outlives it and its streams.
class CountedDevice final : public ForwardingDevice {
 public:
  CountedDevice(std::unique_ptr<Device> inner, RecordingCounts& counts)
      : ForwardingDevice(std::move(inner)), counts_(counts) {}
  std::unique_ptr<Stream> make_stream(StreamKind kind) override {
    return std::make_unique<CountedStream>(ForwardingDevice::make_stream(kind), counts_);
  }

 private:
  class CountedStream final : public ForwardingStream {
   public:
    CountedStream(std::unique_ptr<Stream> inner, RecordingCounts& counts)
        : ForwardingStream(std::move(inner)), counts_(counts) {}
    void launch(Task task) override {
      if (counts_.broken) fail(ErrorKind::Device, "the device is gone");
      if (capturing_ && ++tasks_ == 3) fail_at(CaptureFault::Task);
      ForwardingStream::launch(task);
    }
    bool begin_capture() override {
      fail_at(CaptureFault::Begin);
      tasks_ = 0;
      return capturing_ = ForwardingStream::begin_capture();
    }
    std::unique_ptr<Recording> end_capture() override {
      capturing_ = false;
      auto recording = ForwardingStream::end_capture();
      fail_at(CaptureFault::End);
      ++counts_.captures;
      return recording;
    }
    void drop_capture() noexcept override {
      capturing_ = false;
      ForwardingStream::drop_capture();
    }
    void replay(Recording& recording) override {
      ++counts_.replays;
      ForwardingStream::replay(recording);
    }

   private:
    void fail_at(CaptureFault fault) {
      if (counts_.fault != fault || counts_.failing == 0) return;
      --counts_.failing;
      fail(ErrorKind::Device, "nothing is recorded today");
    }

    RecordingCounts& counts_;
    bool capturing_ = false;
    int tasks_ = 0;
  };

  RecordingCounts& counts_;
};

}  // namespace plimsoll::test
