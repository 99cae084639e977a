#pragma once
// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011).
// A number is a pure function of (seed, stream, index): the same on every rank, layout and device, and replayable.

#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

namespace plimsoll {

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

constexpr PhiloxCounter philox4x32(PhiloxCounter c, PhiloxKey k) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53U} * c[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57U} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<std::uint32_t>(p0)};
    k[0] += 0x9E3779B9U;
    k[1] += 0xBB67AE85U;
  }
  return c;
}

// FNV-1a, 64 bit: the number of a random stream is the hash of its name.
constexpr std::uint64_t stream_id(std::string_view name) {
  std::uint64_t hash = 0xCBF29CE484222325U;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3U;
  return hash;
}

// An endless array of random numbers with random access, named by (seed, stream).
class RandomStream {
 public:
  constexpr RandomStream(std::uint64_t seed, std::uint64_t stream)
      : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}, stream_(stream) {}
  RandomStream(std::uint64_t seed, std::string_view name) : RandomStream(seed, stream_id(name)) {}

  // Four 32-bit numbers: entries 4·block … 4·block+3.
  constexpr PhiloxCounter block(std::uint64_t block) const {
    return philox4x32({static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32),
                       static_cast<std::uint32_t>(stream_), static_cast<std::uint32_t>(stream_ >> 32)},
                      key_);
  }
  constexpr std::uint32_t bits(std::uint64_t index) const { return block(index >> 2)[index & 3]; }
  // Uniform in (0, 1).
  double uniform(std::uint64_t index) const { return (bits(index) + 0.5) * 0x1p-32; }
  // Standard normals by Box–Muller: entries 4·block … 4·block+3, two pairs of uniforms.
  std::array<double, 4> normals(std::uint64_t block_index) const {
    const PhiloxCounter b = block(block_index);
    std::array<double, 4> out{};
    for (std::size_t pair = 0; pair < 4; pair += 2) {
      const double radius = std::sqrt(-2.0 * std::log((b[pair] + 0.5) * 0x1p-32));
      const double angle = 6.283185307179586 * ((b[pair + 1] + 0.5) * 0x1p-32);
      out[pair] = radius * std::cos(angle);
      out[pair + 1] = radius * std::sin(angle);
    }
    return out;
  }
  double normal(std::uint64_t index) const { return normals(index >> 2)[index & 3]; }

 private:
  PhiloxKey key_;
  std::uint64_t stream_;
};

// Keep-threshold of a dropout: an element is dropped when its 32 random bits are below it. Integers, so every backend
// agrees.
constexpr std::uint32_t dropout_threshold(double p) {
  return p >= 1.0 ? 0xFFFFFFFFU : static_cast<std::uint32_t>(p * 4294967296.0);
}

}  // namespace plimsoll
