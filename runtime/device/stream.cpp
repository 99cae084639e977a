// What a stream does unless its device does it otherwise: host code reaches the memory of the device.

#include <cstring>

#include "runtime/core/error.hpp"
#include "runtime/device/device.hpp"

namespace plimsoll {

void Stream::copy(const Transfer& transfer) {
  launch({[](void* t) {
            const auto* mine = static_cast<const Transfer*>(t);
            if (mine->bytes > 0) std::memcpy(mine->to, mine->from, static_cast<std::size_t>(mine->bytes));
          },
          const_cast<Transfer*>(&transfer)});
}

void Stream::fill(void* device, std::uint8_t byte, std::int64_t bytes) {
  if (bytes > 0) std::memset(device, byte, static_cast<std::size_t>(bytes));
}

void Stream::copy_blocks(void* to, std::int64_t to_stride, const void* from, std::int64_t from_stride,
                         std::int64_t bytes, std::int64_t count) {
  for (std::int64_t i = 0; i < count && bytes > 0; ++i) {
    std::memcpy(static_cast<std::byte*>(to) + i * to_stride, static_cast<const std::byte*>(from) + i * from_stride,
                static_cast<std::size_t>(bytes));
  }
}

std::unique_ptr<Recording> Stream::end_capture() { fail(ErrorKind::Internal, "this stream records nothing"); }
void Stream::replay(Recording&) { fail(ErrorKind::Internal, "this stream records nothing"); }

}  // namespace plimsoll
