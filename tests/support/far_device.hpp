#pragma once
// A device whose memory the host cannot touch: what allocate() gives may be neither read nor written, and copies go
// through a second mapping of the same pages. Its streams are those of the CPU device.

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <mutex>
#include <vector>

#include "runtime/core/error.hpp"
#include "runtime/device/cpu_stream.hpp"
#include "runtime/device/device.hpp"

namespace plimsoll::test {

class FarDevice final : public Device {
 public:
  std::string_view kind() const override { return "far"; }
  std::string description() const override { return "memory that only copies reach"; }
  DeviceMemory memory() const override { return near_->memory(); }
  std::unique_ptr<Stream> make_stream(StreamKind kind) override {
    return std::make_unique<FarStream>(*this, near_->make_stream(kind));
  }
  std::unique_ptr<Event> make_event() override { return make_cpu_event(); }

  void* allocate(std::int64_t bytes) override {
    const auto size = static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1));
    const int file = memfd_create("far", 0);
    require(file >= 0 && ftruncate(file, static_cast<off_t>(size)) == 0, ErrorKind::OutOfMemory, "no {} bytes", bytes);
    void* far = mmap(nullptr, size, PROT_NONE, MAP_SHARED, file, 0);
    void* near = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    require(far != MAP_FAILED && near != MAP_FAILED, ErrorKind::OutOfMemory, "no {} bytes", bytes);
    const std::lock_guard lock(mutex_);
    blocks_.push_back({static_cast<std::byte*>(far), static_cast<std::byte*>(near), size});
    return far;
  }
  void release(void* memory, std::int64_t) noexcept override {
    const std::lock_guard lock(mutex_);
    std::erase_if(blocks_, [&](const Block& b) {
      if (b.far != memory) return false;
      munmap(b.far, b.bytes);
      munmap(b.near, b.bytes);
      return true;
    });
  }
  void* allocate_host(std::int64_t bytes) override { return near_->allocate_host(bytes); }
  void release_host(void* memory, std::int64_t bytes) noexcept override { near_->release_host(memory, bytes); }

  void copy_to_device(void* device, const void* host, std::int64_t bytes) override {
    near_->copy_to_device(reach(device), host, bytes);
  }
  void copy_to_host(void* host, const void* device, std::int64_t bytes) override {
    near_->copy_to_host(host, reach(device), bytes);
  }
  void fill(void* device, std::uint8_t byte, std::int64_t bytes) override { near_->fill(reach(device), byte, bytes); }

  // Where the host reaches what lies at `device`; host memory is where it is.
  std::byte* reach(const void* device) const {
    auto* place = static_cast<std::byte*>(const_cast<void*>(device));
    const std::lock_guard lock(mutex_);
    for (const Block& b : blocks_) {
      if (place >= b.far && place < b.far + b.bytes) return b.near + (place - b.far);
    }
    return place;
  }

 private:
  struct Block {
    std::byte *far, *near;
    std::size_t bytes;
  };
  class FarStream final : public Stream {
   public:
    FarStream(const FarDevice& device, std::unique_ptr<Stream> near) : device_(device), near_(std::move(near)) {}
    void launch(Task task) override { near_->launch(task); }
    void record(Event& event) override { near_->record(event); }
    void wait(const Event& event) override { near_->wait(event); }
    void synchronize() override { near_->synchronize(); }
    void copy_blocks(void* to, std::int64_t to_stride, const void* from, std::int64_t from_stride, std::int64_t bytes,
                     std::int64_t count) override {
      near_->copy_blocks(device_.reach(to), to_stride, device_.reach(from), from_stride, bytes, count);
    }
    void fill(void* device, std::uint8_t byte, std::int64_t bytes) override {
      near_->fill(device_.reach(device), byte, bytes);
    }

   private:
    const FarDevice& device_;
    std::unique_ptr<Stream> near_;
  };

  std::unique_ptr<Device> near_ = make_cpu_device(1);
  mutable std::mutex mutex_;
  std::vector<Block> blocks_;
};

}  // namespace plimsoll::test
