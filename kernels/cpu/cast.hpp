#pragma once
// Conversions between floating types without branches, so that loops over them vectorise. Same results as
// runtime/tensor's.

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "runtime/tensor/dtype.hpp"

namespace plimsoll {

[[gnu::always_inline]] inline float widen(float x) { return x; }
[[gnu::always_inline]] inline double widen(double x) { return x; }
[[gnu::always_inline]] inline float widen(bf16 x) { return static_cast<float>(x); }
// Moving the bits and multiplying by 2^112 converts normal and subnormal numbers alike.
[[gnu::always_inline]] inline float widen(f16 x) {
  const std::uint32_t magnitude = x.bits & 0x7FFFU;
  const auto finite = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude << 13) * 0x1p112F);
  const std::uint32_t special = (magnitude << 13) | 0x7F800000U;
  const std::uint32_t sign = static_cast<std::uint32_t>(x.bits & 0x8000U) << 16;
  return std::bit_cast<float>(sign | (magnitude >= 0x7C00U ? special : finite));
}

// What kernels compute in: float for the 16-bit types, which only store; also of statistics and of gradients of
// parameters.
template <class T>
using Wide = decltype(widen(T{}));
template <class T>
inline constexpr bool kIsHalf = !std::is_same_v<T, Wide<T>>;

[[gnu::always_inline]] inline bf16 narrow_bf16(float x) { return bf16(x); }
[[gnu::always_inline]] inline f16 narrow_f16(float x) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t magnitude = u & 0x7FFFFFFFU;
  const std::uint32_t normal = (magnitude + 0xFFFU + ((magnitude >> 13) & 1U) - 0x38000000U) >> 13;
  // Adding 0.5 aligns the mantissa of a subnormal result, and the addition rounds to even.
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3F000000U;
  std::uint32_t bits = magnitude >= 0x38800000U ? normal : subnormal;
  bits = magnitude >= 0x477FF000U ? 0x7C00U : bits;
  bits = magnitude > 0x7F800000U ? 0x7E00U : bits;
  f16 result;
  result.bits = static_cast<std::uint16_t>(((u >> 16) & 0x8000U) | bits);
  return result;
}

// To float with the last bit set when anything was lost: rounding the result once more is then rounding once.
[[gnu::always_inline]] inline float round_to_odd(double x) {
  const auto nearest = static_cast<float>(x);
  const auto bits = std::bit_cast<std::uint32_t>(nearest);
  const double size = std::fabs(x), rounded = std::fabs(static_cast<double>(nearest));
  const bool even = (bits & 1U) == 0;
  const std::uint32_t down = even && rounded > size ? 1U : 0U;
  const std::uint32_t up = even && rounded < size ? 1U : 0U;
  return std::bit_cast<float>(bits - down + up);
}

// x as To, rounded once to nearest even.
template <class To, class From>
[[gnu::always_inline]] inline To convert(From x) {
  if constexpr (std::is_same_v<To, From>)
    return x;
  else if constexpr (std::is_same_v<From, double> && !std::is_same_v<To, float>)
    return convert<To>(round_to_odd(x));
  else if constexpr (std::is_same_v<To, bf16>)
    return narrow_bf16(static_cast<float>(widen(x)));
  else if constexpr (std::is_same_v<To, f16>)
    return narrow_f16(static_cast<float>(widen(x)));
  else
    return static_cast<To>(widen(x));
}

}  // namespace plimsoll
