#pragma once
// What the host gives a device for a step goes through pinned host memory, in the order of a stream: the host does not
// touch the device's memory, waits for it only where all blocks are on their way, and what it gives may change as soon
// as send() returns.

#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/device/device.hpp"

namespace plimsoll {

class Staging {
 public:
  // `blocks` of at most `block_bytes` can be on their way. Error(OutOfMemory). `device` outlives it, and it the streams
  // that it was sent on.
  Staging(Device& device, std::int64_t block_bytes, int blocks);
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // Blocks the host only where all blocks are on their way, until the first of them has arrived.
  void send(Stream& stream, void* to, const void* from, std::int64_t bytes);

 private:
  struct Block {
    Transfer transfer;
    std::unique_ptr<Event> arrived;
    std::int64_t number = 0;  // of the sends
  };
  Device& device_;
  std::int64_t block_bytes_;
  std::byte* memory_;
  std::vector<Block> blocks_;
  std::int64_t sent_ = 0;
};

}  // namespace plimsoll
