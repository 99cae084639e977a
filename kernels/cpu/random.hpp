#pragma once
// Philox for whole ranges: sixteen counters at a time, each loop a vector instruction. Same numbers as RandomStream.

#include <cstdint>

#include "runtime/core/rng.hpp"

namespace plimsoll {

inline constexpr std::int64_t kPhiloxLanes = 16;

// out[4·i + j] = entry j of block first_block + i of stream (seed, stream), for 0 ≤ i < 16.
inline void philox_lanes(std::uint64_t seed, std::uint64_t stream, std::uint64_t first_block, std::uint32_t* out) {
  alignas(64) std::uint32_t c0[kPhiloxLanes], c1[kPhiloxLanes], c2[kPhiloxLanes], c3[kPhiloxLanes];
  for (std::uint32_t l = 0; l < kPhiloxLanes; ++l) {
    const std::uint64_t block = first_block + l;
    c0[l] = static_cast<std::uint32_t>(block);
    c1[l] = static_cast<std::uint32_t>(block >> 32);
    c2[l] = static_cast<std::uint32_t>(stream);
    c3[l] = static_cast<std::uint32_t>(stream >> 32);
  }
  auto k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
#pragma omp simd
    for (std::int64_t l = 0; l < kPhiloxLanes; ++l) {
      const std::uint64_t p0 = std::uint64_t{0xD2511F53U} * c0[l];
      const std::uint64_t p1 = std::uint64_t{0xCD9E8D57U} * c2[l];
      c0[l] = static_cast<std::uint32_t>(p1 >> 32) ^ c1[l] ^ k0;
      c1[l] = static_cast<std::uint32_t>(p1);
      c2[l] = static_cast<std::uint32_t>(p0 >> 32) ^ c3[l] ^ k1;
      c3[l] = static_cast<std::uint32_t>(p0);
    }
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
#pragma omp simd
  for (std::int64_t l = 0; l < kPhiloxLanes; ++l) {
    out[4 * l] = c0[l];
    out[4 * l + 1] = c1[l];
    out[4 * l + 2] = c2[l];
    out[4 * l + 3] = c3[l];
  }
}

// Calls body(offset, bits, n): elements offset … offset+n of a range of `count` have the random numbers bits[0 … n),
// which are the entries first + offset … of stream (seed, stream).
template <class F>
void for_random_bits(std::uint64_t seed, std::uint64_t stream, std::uint64_t first, std::int64_t count, F&& body) {
  alignas(64) std::uint32_t bits[4 * kPhiloxLanes];
  for (std::int64_t done = 0; done < count;) {
    const std::uint64_t index = first + static_cast<std::uint64_t>(done);
    const auto skip = static_cast<std::int64_t>(index & 3U);
    const std::int64_t n = count - done < 4 * kPhiloxLanes - skip ? count - done : 4 * kPhiloxLanes - skip;
    philox_lanes(seed, stream, index >> 2, bits);
    body(done, bits + skip, n);
    done += n;
  }
}

}  // namespace plimsoll
