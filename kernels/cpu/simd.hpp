#pragma once
// A register of floats, its loads and stores, and the transpose of a square of them.

#include <array>
#include <utility>

namespace plimsoll::simd {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

// A register of floats; Unaligned is the same at any float address.
using Vector [[gnu::vector_size(kLanes * 4)]] = float;
using Unaligned [[gnu::vector_size(kLanes * 4), gnu::aligned(4), gnu::may_alias]] = float;

inline Vector load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }

// Transposes the kLanes x kLanes matrix whose rows are r: log2(kLanes) perfect shuffles of its two halves.
inline void transpose(std::array<Vector, kLanes>& r) {
  const auto interleave = []<int... l>(Vector x, Vector y, std::integer_sequence<int, l...>) {
    constexpr int kHalf = kLanes / 2;
    return std::array<Vector, 2>{__builtin_shufflevector(x, y, (l / 2 + (l % 2) * kLanes)...),
                                 __builtin_shufflevector(x, y, (kHalf + l / 2 + (l % 2) * kLanes)...)};
  };
#pragma GCC unroll 4
  for (int stage = 1; stage < kLanes; stage *= 2) {
    std::array<Vector, kLanes> next;
#pragma GCC unroll 16
    for (int i = 0; i < kLanes / 2; ++i) {
      const auto [low, high] = interleave(r[i], r[i + kLanes / 2], std::make_integer_sequence<int, kLanes>{});
      next[2 * i] = low;
      next[2 * i + 1] = high;
    }
    r = next;
  }
}

}  // namespace plimsoll::simd
