#pragma once
// The random numbers of runtime/core/rng.hpp on the device: the same integers as on the host.

#include "runtime/core/rng.hpp"

namespace plimsoll::cuda {

// Entry `index` of a stream, of its block. Without indexing by a variable, which would put the block into memory.
__device__ inline std::uint32_t entry_of(const PhiloxCounter& block, std::uint64_t index) {
  const unsigned entry = static_cast<unsigned>(index & 3U);
  const std::uint32_t low = entry == 0 ? block[0] : block[1], high = entry == 2 ? block[2] : block[3];
  return entry < 2 ? low : high;
}

// Entries of stream (seed, stream), read in rising order: a block of four is made once.
class RandomEntries {
 public:
  __device__ RandomEntries(std::uint64_t seed, std::uint64_t stream) : stream_(seed, stream) {}
  __device__ std::uint32_t operator[](std::uint64_t index) {
    if (!made_ || index >> 2 != block_) {
      block_ = index >> 2;
      numbers_ = stream_.block(block_);
      made_ = true;
    }
    return entry_of(numbers_, index);
  }

 private:
  RandomStream stream_;
  std::uint64_t block_ = 0;
  bool made_ = false;
  PhiloxCounter numbers_{};
};

}  // namespace plimsoll::cuda
