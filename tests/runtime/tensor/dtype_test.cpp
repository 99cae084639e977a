#include "runtime/tensor/dtype.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "runtime/tensor/spec.hpp"

namespace plimsoll {
namespace {

TEST(F16, EveryPatternSurvivesFloat) {
  for (std::uint32_t bits = 0; bits < 0x10000U; ++bits) {
    f16 h;
    h.bits = static_cast<std::uint16_t>(bits);
    const auto value = static_cast<float>(h);
    const bool nan = (bits & 0x7FFFU) > 0x7C00U;
    ASSERT_EQ(std::isnan(value), nan) << bits;
    if (nan)
      ASSERT_TRUE(std::isnan(static_cast<float>(f16(value)))) << bits;
    else
      ASSERT_EQ(f16(value).bits, bits);
  }
}

TEST(Bf16, EveryPatternSurvivesFloat) {
  for (std::uint32_t bits = 0; bits < 0x10000U; ++bits) {
    bf16 b;
    b.bits = static_cast<std::uint16_t>(bits);
    const auto value = static_cast<float>(b);
    if (std::isnan(value))
      ASSERT_TRUE(std::isnan(static_cast<float>(bf16(value)))) << bits;
    else
      ASSERT_EQ(bf16(value).bits, bits);
  }
}

// Between neighbours the nearer one is taken, at the middle the even one.
template <class Number>
void check_rounding(std::uint32_t last) {
  using Bits = decltype(Number().bits);
  for (std::uint32_t bits = 0; bits < last; ++bits) {
    Number low, high;
    low.bits = static_cast<Bits>(bits);
    high.bits = static_cast<Bits>(bits + 1);
    const double a = static_cast<float>(low), b = static_cast<float>(high), middle = (a + b) / 2;
    const auto exact = static_cast<float>(middle);
    ASSERT_EQ(static_cast<double>(exact), middle);
    for (const float sign : {1.0F, -1.0F}) {
      const std::uint32_t sign_bit = sign < 0 ? 1U << (8 * sizeof(Bits) - 1) : 0U;
      ASSERT_EQ(Number(sign * exact).bits, ((bits & 1U) == 0 ? bits : bits + 1) | sign_bit) << bits;
      ASSERT_EQ(Number(sign * std::nextafter(exact, 0.0F)).bits, bits | sign_bit) << bits;
      ASSERT_EQ(Number(sign * std::nextafter(exact, std::numeric_limits<float>::infinity())).bits,
                (bits + 1) | sign_bit);
    }
  }
}

TEST(F16, RoundsToNearestEven) { check_rounding<f16>(0x7BFF); }
TEST(Bf16, RoundsToNearestEven) { check_rounding<bf16>(0x7F7F); }

TEST(F16, OverflowsToInfinity) {
  EXPECT_EQ(static_cast<float>(f16(65504.0F)), 65504.0F);
  EXPECT_EQ(static_cast<float>(f16(65519.0F)), 65504.0F);
  EXPECT_TRUE(std::isinf(static_cast<float>(f16(65520.0F))));
  EXPECT_EQ(static_cast<float>(f16(-1e30F)), -std::numeric_limits<float>::infinity());
  EXPECT_EQ(f16(0x1p-24F).bits, 1U);
  EXPECT_EQ(f16(0x1p-26F).bits, 0U);
}

TEST(Bf16, OverflowsToInfinity) {
  EXPECT_TRUE(std::isinf(static_cast<float>(bf16(std::numeric_limits<float>::max()))));
  EXPECT_TRUE(std::isinf(static_cast<float>(bf16(-std::numeric_limits<float>::infinity()))));
}

TEST(TensorSpec, CountsElementsRowsAndBytes) {
  const TensorSpec s{{2, 3, 5}, DType::bf16};
  EXPECT_EQ(s.elements(), 30);
  EXPECT_EQ(s.rows(), 6);
  EXPECT_EQ(s.last(), 5);
  EXPECT_EQ(s.bytes(), 60);
  EXPECT_EQ(to_string(s), "bf16[2, 3, 5]");
  EXPECT_EQ((TensorSpec{{}, DType::f64}.bytes()), 8);
  EXPECT_EQ((TensorSpec{{4, 0}, DType::f32}.rows()), 0);
  EXPECT_NE(s, (TensorSpec{{2, 3, 5}, DType::f16}));
  EXPECT_NE(s, (TensorSpec{{6, 5}, DType::bf16}));
}

TEST(Shape, HasAtMostSixDims) {
  Shape shape{1, 2, 3, 4, 5, 6};
  EXPECT_EQ(shape[-1], 6);
  EXPECT_THROW(shape.push_back(7), Error);
}

// Every code comes back from its float; a code without a number is a NaN, and every NaN becomes one.
template <class F8>
void check_codes(std::uint32_t first_nan, std::uint32_t infinity) {
  for (std::uint32_t bits = 0; bits < 0x100U; ++bits) {
    F8 code;
    code.bits = static_cast<std::uint8_t>(bits);
    const auto value = static_cast<float>(code);
    const std::uint32_t magnitude = bits & 0x7FU;
    ASSERT_EQ(std::signbit(value), bits >= 0x80U && magnitude < first_nan) << bits;
    ASSERT_EQ(std::isnan(value), magnitude >= first_nan) << bits;
    ASSERT_EQ(std::isinf(value), magnitude == infinity) << bits;
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(static_cast<float>(F8(value)))) << bits;
    } else if (!std::isinf(value)) {
      ASSERT_EQ(F8(value).bits, bits);
    }
  }
  EXPECT_TRUE(std::isnan(static_cast<float>(F8(-std::numeric_limits<float>::quiet_NaN()))));
}
TEST(F8, EveryCodeSurvivesFloat) {
  check_codes<F8E4M3>(0x7F, 0xFF);
  check_codes<F8E5M2>(0x7D, 0x7C);
}

// The numbers of the formats as they are written down, apart from how they are computed here.
template <class F8>
void check_values(int mantissa_bits, int bias, std::uint32_t end) {
  for (std::uint32_t bits = 0; bits < end; ++bits) {
    F8 code;
    code.bits = static_cast<std::uint8_t>(bits);
    const std::uint32_t exponent = bits >> mantissa_bits, fraction = bits & ((1U << mantissa_bits) - 1);
    const double significand = (exponent == 0 ? 0.0 : 1.0) + std::ldexp(fraction, -mantissa_bits);
    ASSERT_EQ(static_cast<float>(code),
              std::ldexp(significand, (exponent == 0 ? 1 : static_cast<int>(exponent)) - bias))
        << bits;
  }
}
TEST(F8, CodesMeanTheirNumbers) {
  check_values<F8E4M3>(3, 7, 0x7F);
  check_values<F8E5M2>(2, 15, 0x7C);
}

TEST(F8, RoundsToNearestEven) {
  check_rounding<F8E4M3>(0x7E);
  check_rounding<F8E5M2>(0x7B);
}

template <class F8>
void check_saturation(std::uint32_t most) {
  F8 largest;
  largest.bits = static_cast<std::uint8_t>(most);
  EXPECT_EQ(static_cast<float>(largest), F8::kMost);
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float value : {F8::kMost, std::nextafter(F8::kMost, infinity), 1.2F * F8::kMost, 1e30F,
                            std::numeric_limits<float>::max(), infinity}) {
    EXPECT_EQ(F8(value).bits, most) << value;
    EXPECT_EQ(F8(-value).bits, most | 0x80U) << value;
  }
}
TEST(F8, SaturatesAtTheLargestNumber) {
  check_saturation<F8E4M3>(0x7E);
  check_saturation<F8E5M2>(0x7B);
}

TEST(F8, TinyNumbersBecomeZeroWithTheirSign) {
  for (const float value : {0.0F, std::numeric_limits<float>::denorm_min(), 1e-30F, 0x1p-18F}) {
    EXPECT_EQ(F8E4M3(value).bits, 0U) << value;
    EXPECT_EQ(F8E4M3(-value).bits, 0x80U) << value;
    EXPECT_EQ(F8E5M2(value).bits, 0U) << value;
    EXPECT_EQ(F8E5M2(-value).bits, 0x80U) << value;
  }
}

}  // namespace
}  // namespace plimsoll
