#pragma once
// A device and a stream that do what another does, but for what a test overrides.

#include <memory>
#include <utility>

#include "runtime/device/device.hpp"

namespace plimsoll::test {

class ForwardingStream : public Stream {
 public:
  explicit ForwardingStream(std::unique_ptr<Stream> inner) : inner_(std::move(inner)) {}

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
  bool only_launches() const override { return inner_->only_launches(); }
  bool begin_capture() override { return inner_->begin_capture(); }
  std::unique_ptr<Recording> end_capture() override { return inner_->end_capture(); }
  void drop_capture() noexcept override { inner_->drop_capture(); }
  void replay(Recording& recording) override { inner_->replay(recording); }
  void begin_range(const char* name) override { inner_->begin_range(name); }
  void end_range() override { inner_->end_range(); }

 private:
  std::unique_ptr<Stream> inner_;
};

class ForwardingDevice : public Device {
 public:
  explicit ForwardingDevice(std::unique_ptr<Device> inner) : inner_(std::move(inner)) {}

  std::string_view kind() const override { return inner_->kind(); }
  std::string description() const override { return inner_->description(); }
  DeviceMemory memory() const override { return inner_->memory(); }
  std::optional<std::int64_t> outside_bytes() const override { return inner_->outside_bytes(); }
  std::unique_ptr<Stream> make_stream(StreamKind kind) override { return inner_->make_stream(kind); }
  std::unique_ptr<Event> make_event() override { return inner_->make_event(); }
  std::unique_ptr<Timer> make_timer() override { return inner_->make_timer(); }
  void* allocate(std::int64_t bytes) override { return inner_->allocate(bytes); }
  void release(void* memory, std::int64_t bytes) noexcept override { inner_->release(memory, bytes); }
  void* allocate_host(std::int64_t bytes) override { return inner_->allocate_host(bytes); }
  void release_host(void* memory, std::int64_t bytes) noexcept override { inner_->release_host(memory, bytes); }
  void copy_to_device(void* device, const void* host, std::int64_t bytes) override {
    inner_->copy_to_device(device, host, bytes);
  }
  void copy_to_host(void* host, const void* device, std::int64_t bytes) override {
    inner_->copy_to_host(host, device, bytes);
  }
  void fill(void* device, std::uint8_t byte, std::int64_t bytes) override { inner_->fill(device, byte, bytes); }

 private:
  std::unique_ptr<Device> inner_;
};

}  // namespace plimsoll::test
