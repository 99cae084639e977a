#pragma once
// A device that does what another does, but for what a test overrides.

#include <memory>
#include <utility>

#include "runtime/device/device.hpp"

namespace plimsoll::test {

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
