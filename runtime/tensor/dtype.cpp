#include "runtime/tensor/dtype.hpp"

#include <limits>

namespace plimsoll {
namespace {

// The code of a float in a format of 8 bits with kMantissa of them for the mantissa, whose largest finite value has the
// code kMost.
template <int kMantissa, std::uint32_t kMost, std::uint32_t kNan>
std::uint8_t f8_code(float value) {
  constexpr std::uint32_t kBias = (1U << (6 - kMantissa)) - 1, kShift = 23 - kMantissa;
  const auto u = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (u >> 24) & 0x80U, magnitude = u & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) return static_cast<std::uint8_t>(sign | kNan);
  std::uint32_t code = 0;
  if (magnitude >= (128 - kBias) << 23) {  // normal
    const std::uint32_t rounded = magnitude + (1U << (kShift - 1)) - 1 + ((magnitude >> kShift) & 1U);
    code = (rounded >> kShift) - ((127 - kBias) << kMantissa);
  } else {  // subnormal: adding a power of two aligns the mantissa, the FPU rounds to even
    const std::uint32_t power = (128 - kBias + kShift) << 23;
    const float aligned = std::bit_cast<float>(magnitude) + std::bit_cast<float>(power);
    code = std::bit_cast<std::uint32_t>(aligned) - power;
  }
  return static_cast<std::uint8_t>(sign | (code < kMost ? code : kMost));
}

// The float of a code, which is finite.
template <int kMantissa>
float f8_value(std::uint32_t bits) {
  constexpr std::uint32_t kBias = (1U << (6 - kMantissa)) - 1, kShift = 23 - kMantissa;
  const std::uint32_t sign = (bits & 0x80U) << 24, code = bits & 0x7FU;
  if (code >> kMantissa != 0) return std::bit_cast<float>(sign | ((code << kShift) + ((127 - kBias) << 23)));
  const float value =
      static_cast<float>(code) * std::bit_cast<float>((128 - kBias - static_cast<std::uint32_t>(kMantissa)) << 23);
  return sign != 0 ? -value : value;
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

}  // namespace

F8E4M3::F8E4M3(float value) : bits(f8_code<3, 0x7E, 0x7F>(value)) {}
F8E4M3::operator float() const { return (bits & 0x7FU) == 0x7FU ? kNan : f8_value<3>(bits); }

F8E5M2::F8E5M2(float value) : bits(f8_code<2, 0x7B, 0x7F>(value)) {}
F8E5M2::operator float() const {
  const std::uint32_t code = bits & 0x7FU;
  if (code > 0x7CU) return kNan;
  if (code == 0x7CU) return std::bit_cast<float>(0x7F800000U | (bits & 0x80U) << 24);
  return f8_value<2>(bits);
}

f16::f16(float value) {
  const auto u = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((u >> 16) & 0x8000U);
  const std::uint32_t magnitude = u & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) {  // NaN
    bits = static_cast<std::uint16_t>(sign | 0x7E00U);
  } else if (magnitude >= 0x477FF000U) {  // rounds past 65504
    bits = static_cast<std::uint16_t>(sign | 0x7C00U);
  } else if (magnitude >= 0x38800000U) {  // normal
    const std::uint32_t rounded = magnitude + 0xFFFU + ((magnitude >> 13) & 1U);
    bits = static_cast<std::uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
  } else {  // subnormal: adding 0.5 aligns the mantissa, the FPU rounds to even
    const float aligned = std::bit_cast<float>(magnitude) + 0.5F;
    bits = static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(aligned) - 0x3F000000U));
  }
}

f16::operator float() const {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000U) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1FU;
  const std::uint32_t mantissa = bits & 0x3FFU;
  if (exponent == 0x1FU) return std::bit_cast<float>(sign | 0x7F800000U | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112U) << 23) | (mantissa << 13));
  const float value = static_cast<float>(mantissa) * 0x1p-24F;
  return sign != 0 ? -value : value;
}

}  // namespace plimsoll
