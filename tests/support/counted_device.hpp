#pragma once
// A device as it is, whose streams count what they record and replay.

#include <atomic>
#include <memory>
#include <utility>

#include "tests/support/forwarding_device.hpp"

namespace plimsoll::test {

struct RecordingCounts {
  std::atomic<std::int64_t> captures = 0, replays = 0;
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
    void launch(Task task) override { inner_->launch(task); }
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
    bool begin_capture() override { return inner_->begin_capture(); }
    std::unique_ptr<Recording> end_capture() override {
      ++counts_.captures;
      return inner_->end_capture();
    }
    void replay(Recording& recording) override {
      ++counts_.replays;
      inner_->replay(recording);
    }
    void begin_range(const char* name) override { inner_->begin_range(name); }
    void end_range() override { inner_->end_range(); }

   private:
    std::unique_ptr<Stream> inner_;
    RecordingCounts& counts_;
  };

  RecordingCounts& counts_;
};

}  // namespace plimsoll::test
