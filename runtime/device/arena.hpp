#pragma once
// The one allocation of a rank. Its high-water mark is measured from what was written, not computed from the plan:
// fill_canary() writes a pattern, and high_water() finds the last word that no longer holds it.

#include <cstddef>
#include <cstdint>

#include "runtime/device/device.hpp"

namespace plimsoll {

class Arena {
 public:
  Arena(Device& device, std::int64_t bytes);  // Error(OutOfMemory); `device` outlives the arena
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  std::byte* base() const { return base_; }
  std::int64_t bytes() const { return bytes_; }

  // Writes word i (8 bytes) as a hash of i. Also the first touch of the pages, by `threads` threads.
  void fill_canary(int threads = 1);
  // Bytes from the base to the end of the last changed word: one byte in 256 is written with the canary's own value, a
  // word practically never. Host only: the streams are synchronized before.
  std::int64_t high_water() const;

 private:
  Device& device_;
  std::int64_t bytes_;
  std::byte* base_;
};

}  // namespace plimsoll
