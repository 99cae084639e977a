#pragma once
// Host buffers as a kernel of another device sees them: each has a copy there, with its surroundings.

#include <cstddef>
#include <map>

#include "runtime/device/device.hpp"

namespace plimsoll::test {

class DeviceCopies {
 public:
  // `device` outlives it.
  explicit DeviceCopies(Device& device) : device_(device) {}
  DeviceCopies(const DeviceCopies&) = delete;
  DeviceCopies& operator=(const DeviceCopies&) = delete;
  ~DeviceCopies() {
    for (const auto& [host, copy] : copies_) device_.release(copy.memory, copy.bytes);
  }
  // Where `bytes` from `host` on lie on the device, with `around` more on either side: what begins at the same address
  // lies at the same place. Aligned to 128 bytes where `around` is a multiple of that.
  void* add(void* host, std::int64_t bytes, std::int64_t around) {
    if (host == nullptr) return nullptr;
    auto* begin = static_cast<std::byte*>(host) - around;
    auto [at, fresh] = copies_.try_emplace(begin);
    if (fresh) {
      at->second = {device_.allocate(bytes + 2 * around), bytes + 2 * around};
      device_.copy_to_device(at->second.memory, begin, at->second.bytes);
    }
    return static_cast<std::byte*>(at->second.memory) + around;
  }
  // What the device has, into the host's buffers.
  void bring_back() {
    for (const auto& [host, copy] : copies_) device_.copy_to_host(host, copy.memory, copy.bytes);
  }

 private:
  struct Copy {
    void* memory = nullptr;
    std::int64_t bytes = 0;
  };
  Device& device_;
  std::map<std::byte*, Copy> copies_;
};

}  // namespace plimsoll::test
