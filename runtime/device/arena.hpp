#pragma once
// The one allocation of a rank on its device, and the one in host memory where it offloads. Its high-water mark is
// measured from what was written, not computed from the plan: fill_canary() writes a pattern, and high_water() finds
// the last byte that no longer holds it.
//
// The mark is exact where the last thing written is an element of two bytes or more at a multiple of its size. Every
// odd byte of the canary is 0x7F, so an element would keep it in its last (most significant) byte only as an fp16 NaN,
// as a floating-point number above 1.7e38, or as an integer above 2^30: nothing that training leaves in memory. The
// even bytes are a hash of their place.

#include <cstddef>
#include <cstdint>

#include "runtime/device/device.hpp"

namespace plimsoll {

enum class ArenaPlace : std::uint8_t { Device, Host };

class Arena {
 public:
  // Error(OutOfMemory); `device` outlives the arena.
  Arena(Device& device, std::int64_t bytes, ArenaPlace place = ArenaPlace::Device);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  std::byte* base() const { return base_; }
  std::int64_t bytes() const { return bytes_; }

  // Writes the canary. Also the first touch of the pages, by `threads` threads.
  void fill_canary(int threads = 1);
  // Bytes from the base to the end of the last changed byte. Host only: the streams are synchronized before.
  std::int64_t high_water() const;

 private:
  Device& device_;
  std::int64_t bytes_;
  ArenaPlace place_;
  std::byte* base_;
};

}  // namespace plimsoll
