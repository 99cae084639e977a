#include "runtime/device/staging.hpp"

#include <algorithm>
#include <cstring>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kAlignment = 512;

}  // namespace

Staging::Staging(Device& device, std::int64_t block_bytes, int blocks)
    : device_(device),
      block_bytes_((block_bytes + kAlignment - 1) / kAlignment * kAlignment),
      memory_(static_cast<std::byte*>(device.allocate_host(block_bytes_ * blocks))),
      blocks_(static_cast<std::size_t>(blocks)) {
  for (Block& block : blocks_) block.arrived = device.make_event();
}

Staging::~Staging() { device_.release_host(memory_, block_bytes_ * std::ssize(blocks_)); }

void Staging::send(Stream& stream, void* to, const void* from, std::int64_t bytes) {
  require(bytes <= block_bytes_, ErrorKind::Internal, "{} bytes do not fit a block of {}", bytes, block_bytes_);
  // The first that is free, so that a device that takes them at once needs one only; else the one that left first.
  auto block = std::find_if(blocks_.begin(), blocks_.end(), [](const Block& b) { return b.arrived->ready(); });
  if (block == blocks_.end()) {
    block = std::min_element(blocks_.begin(), blocks_.end(),
                             [](const Block& a, const Block& b) { return a.number < b.number; });
    block->arrived->synchronize();
  }
  std::byte* memory = memory_ + (block - blocks_.begin()) * block_bytes_;
  std::memcpy(memory, from, static_cast<std::size_t>(bytes));
  block->transfer = {to, memory, bytes};
  block->number = ++sent_;
  stream.copy(block->transfer);
  stream.record(*block->arrived);
}

}  // namespace plimsoll
