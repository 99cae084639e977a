#pragma once
// Elementary functions that loops vectorise: libm's are calls, these are a few multiply-adds without branches.
// float: our own minimax-like fits (Chebyshev interpolation in double), relative error about 1e-7 and exact limits at
// ±∞; NaN stays NaN. double: the functions of <cmath>, for tests.

#include <bit>
#include <cmath>
#include <cstdint>

namespace plimsoll::vec {

// e^x. Range reduction x = n·ln2 + r with ln2 in two parts (Cody & Waite), e^r = 1 + r + r²·q(r).
[[gnu::always_inline]] inline float exp(float x) {
  constexpr float kShift = 0x1.8p23F;  // adding it rounds to an integer, left in the low bits
  const float low = x < -104.0F ? -104.0F : x;
  const float clamped = low > 89.0F ? 89.0F : low;
  const float shifted = clamped * 1.44269504F + kShift;
  const float n = shifted - kShift;
  const float r = (clamped - n * 0x1.62e4p-1F) - n * 0x1.7f7d1cp-20F;
  const float q = (((1.3926251e-3F * r + 8.3632329e-3F) * r + 4.1666554e-2F) * r + 1.6666577e-1F) * r + 0.5F;
  const float power = 1.0F + (r + (r * r) * q);
  // 2^n in two factors: n reaches -150 (subnormal results) and 128 (infinity).
  const std::int32_t exponent = std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(kShift);
  const std::int32_t half = exponent >> 1;
  const auto scale1 = std::bit_cast<float>((half + 127) << 23);
  const auto scale2 = std::bit_cast<float>((exponent - half + 127) << 23);
  return power * scale1 * scale2;
}
[[gnu::always_inline]] inline double exp(double x) { return std::exp(x); }

// 1 / (1 + e^-x)
template <class T>
[[gnu::always_inline]] inline T sigmoid(T x) {
  return T(1) / (T(1) + exp(-x));
}

// Below 1: x + x·p(x²). From 1: 1 - e^r(x), r a fit of log erfc around 2.5. From 4 on erf rounds to 1.
[[gnu::always_inline]] inline float erf(float x) {
  const float size = std::fabs(x);
  const float z = x * x;
  float p = 7.8758751e-5F;
  p = p * z - 8.0168643e-4F;
  p = p * z + 5.1890874e-3F;
  p = p * z - 2.6854212e-2F;
  p = p * z + 1.1283595e-1F;
  p = p * z - 3.7612627e-1F;
  p = p * z + 1.2837917e-1F;
  const float inner = x + x * p;
  const float t = (size > 4.0F ? 4.0F : size) - 2.5F;
  float r = 1.6371514e-6F;
  r = r * t - 1.3315014e-5F;
  r = r * t + 7.7291376e-5F;
  r = r * t - 4.2012252e-4F;
  r = r * t + 2.1653035e-3F;
  r = r * t - 1.0858542e-2F;
  r = r * t - 9.4389370e-1F;
  r = r * t - 5.3526807F;
  r = r * t - 7.8068153F;
  const float outer = std::copysign(1.0F - exp(r), x);
  return size < 1.0F ? inner : outer;
}
[[gnu::always_inline]] inline double erf(double x) { return std::erf(x); }

}  // namespace plimsoll::vec
