#pragma once
// fp8 on the CPU: what fp8 rounds numbers to, without branches so that loops vectorise; the same codes as
// runtime/tensor's.

#include <bit>
#include <cstdint>

#include "runtime/ops/fp8_scaling.hpp"
#include "runtime/tensor/dtype.hpp"

namespace plimsoll {

// The number that the format of `role` has for x: nearest even, at most its largest; NaN stays NaN.
template <Fp8Role role>
[[gnu::always_inline]] inline float round_to_fp8(float x) {
  constexpr bool kRange = role == Fp8Role::Gradient;
  constexpr std::uint32_t kDropped = kRange ? 21 : 20;    // bits of the mantissa that it does not have
  constexpr float kNormal = kRange ? 0x1p-14F : 0x1p-6F;  // its least normal number
  constexpr float kAligns = kRange ? 0x1p7F : 0x1p14F;    // + subnormal: the FPU rounds to its multiples
  constexpr std::uint32_t kAll = 0xFFFFFFFFU;
  const auto u = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t magnitude = u & 0x7FFFFFFFU;
  const std::uint32_t normal =
      (magnitude + (1U << (kDropped - 1)) - 1 + ((magnitude >> kDropped) & 1U)) & (kAll << kDropped);
  const float small = (std::bit_cast<float>(magnitude) + kAligns) - kAligns;
  std::uint32_t bits = magnitude < std::bit_cast<std::uint32_t>(kNormal) ? std::bit_cast<std::uint32_t>(small) : normal;
  constexpr auto kMost = std::bit_cast<std::uint32_t>(fp8_most(role));
  bits = bits > kMost ? kMost : bits;
  bits = magnitude > 0x7F800000U ? magnitude : bits;
  return std::bit_cast<float>((u & 0x80000000U) | bits);
}

// The code of a number that e4m3 has, and back.
[[gnu::always_inline]] inline F8E4M3 e4m3_code(float x) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t magnitude = u & 0x7FFFFFFFU;
  // 2^-120 brings the exponent to that of the format, and its subnormal numbers to those of float.
  const std::uint32_t finite = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p-120F) >> 20;
  F8E4M3 code;
  code.bits = static_cast<std::uint8_t>((u >> 24 & 0x80U) | (magnitude > 0x7F800000U ? 0x7FU : finite));
  return code;
}
[[gnu::always_inline]] inline float e4m3_number(F8E4M3 code) {
  const std::uint32_t magnitude = code.bits & 0x7FU;
  const auto finite = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude << 20) * 0x1p120F);
  const std::uint32_t sign = static_cast<std::uint32_t>(code.bits & 0x80U) << 24;
  return std::bit_cast<float>(sign | (magnitude == 0x7FU ? 0x7FC00000U : finite));
}

}  // namespace plimsoll
