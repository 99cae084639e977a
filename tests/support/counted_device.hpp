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
  class CountedStream final : public Stream {
   public:
    CountedStream(std::unique_ptr<Stream> inner, RecordingCounts& counts) : inner_(std::move(inner)), counts_(counts) {}
    void launch(Task task) override {
      if (counts_.broken) fail(ErrorKind::Device, "the device is gone");
      if (capturing_ && ++tasks_ == 3) fail_at(CaptureFault::Task);
      inner_->launch(task);
    }
    void copy(const Transfer& transfer) override { inner_->copy(transfer); }
    void fill(void* device, std::uint8_t byte, std::int64_t bytes) override { inner_->fill(device, byte, bytes); }
    void copy_blocks(void* to, std::int64_t to_stride, const void* from, std::int64_t from_stride, std::int64_t bytes,
                     std::int64_t count) override {
      inner_->copy_blocks(to, to_stride, from, from_stride, bytes, count);
    }
    void catch_up() override { inner_->catch_up(); }
    void record(Event& event) override { inner_->record(event); }
    void wait(const Event& event) override { inner_->wait(event); }
    void synchronize() override { inner_->synchronize(); }
    void* native_handle() override { return inner_->native_handle(); }
    bool only_launches() const override { return inner_->only_launches(); }
    bool begin_capture() override {
      fail_at(CaptureFault::Begin);
      tasks_ = 0;
      return capturing_ = inner_->begin_capture();
    }
    std::unique_ptr<Recording> end_capture() override {
      capturing_ = false;
      auto recording = inner_->end_capture();
      fail_at(CaptureFault::End);
      ++counts_.captures;
      return recording;
    }
    void drop_capture() noexcept override {
      capturing_ = false;
      inner_->drop_capture();
    }
    void replay(Recording& recording) override {
      ++counts_.replays;
      inner_->replay(recording);
    }
    void begin_range(const char* name) override { inner_->begin_range(name); }
    void end_range() override { inner_->end_range(); }

   private:
    void fail_at(CaptureFault fault) {
      if (counts_.fault != fault || counts_.failing == 0) return;
      --counts_.failing;
      fail(ErrorKind::Device, "nothing is recorded today");
    }

    std::unique_ptr<Stream> inner_;
    RecordingCounts& counts_;
    bool capturing_ = false;
    int tasks_ = 0;
  };

  RecordingCounts& counts_;
};

}  // namespace plimsoll::test
