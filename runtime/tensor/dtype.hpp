#pragma once
// Element types. bf16, fp16 and both fp8 are storage types on the CPU: arithmetic happens in float after conversion.

#include <bit>
#include <cstdint>
#include <optional>
#include <string_view>

namespace plimsoll {

enum class DType : std::uint8_t { f32, f64, bf16, f16, i32, i64, u8, f8e4m3, f8e5m2 };

constexpr std::int64_t dtype_bytes(DType t) {
  switch (t) {
    case DType::f32:
    case DType::i32: return 4;
    case DType::f64:
    case DType::i64: return 8;
    case DType::bf16:
    case DType::f16: return 2;
    case DType::u8:
    case DType::f8e4m3:
    case DType::f8e5m2: return 1;
  }
  return 0;
}
constexpr std::string_view dtype_name(DType t) {
  switch (t) {
    case DType::f32: return "f32";
    case DType::f64: return "f64";
    case DType::bf16: return "bf16";
    case DType::f16: return "f16";
    case DType::i32: return "i32";
    case DType::i64: return "i64";
    case DType::u8: return "u8";
    case DType::f8e4m3: return "f8e4m3";
    case DType::f8e5m2: return "f8e5m2";
  }
  return "?";
}
constexpr bool is_fp8(DType t) { return t == DType::f8e4m3 || t == DType::f8e5m2; }
constexpr bool is_floating(DType t) { return t != DType::i32 && t != DType::i64 && t != DType::u8; }

struct bf16 {
  std::uint16_t bits = 0;
  bf16() = default;
  // Round to nearest, ties to even; NaN stays NaN.
  constexpr explicit bf16(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    bits = (u & 0x7FFFFFFFU) > 0x7F800000U ? static_cast<std::uint16_t>((u >> 16) | 0x40U)
                                           : static_cast<std::uint16_t>((u + 0x7FFFU + ((u >> 16) & 1U)) >> 16);
  }
  constexpr explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
};

struct f16 {
  std::uint16_t bits = 0;
  f16() = default;
  explicit f16(float value);  // round to nearest even, overflow to infinity
  explicit operator float() const;
};

// The formats of Micikevicius et al. 2022 (OCP 8-bit floating point). Rounding is to nearest even; what is beyond the
// largest finite value, also an infinity, becomes that value with its sign; NaN stays NaN.
struct F8E4M3 {  // 4 bits of exponent, 3 of mantissa; no infinities
  static constexpr float kMost = 448;
  std::uint8_t bits = 0;
  F8E4M3() = default;
  explicit F8E4M3(float value);
  explicit operator float() const;
};

struct F8E5M2 {  // 5 bits of exponent, 2 of mantissa
  static constexpr float kMost = 57344;
  std::uint8_t bits = 0;
  F8E5M2() = default;
  explicit F8E5M2(float value);
  explicit operator float() const;
};

template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::f32;
}
template <>
constexpr DType dtype_of<double>() {
  return DType::f64;
}
template <>
constexpr DType dtype_of<bf16>() {
  return DType::bf16;
}
template <>
constexpr DType dtype_of<f16>() {
  return DType::f16;
}
template <>
constexpr DType dtype_of<std::int32_t>() {
  return DType::i32;
}
template <>
constexpr DType dtype_of<std::int64_t>() {
  return DType::i64;
}
template <>
constexpr DType dtype_of<std::uint8_t>() {
  return DType::u8;
}
template <>
constexpr DType dtype_of<F8E4M3>() {
  return DType::f8e4m3;
}
template <>
constexpr DType dtype_of<F8E5M2>() {
  return DType::f8e5m2;
}

}  // namespace plimsoll
