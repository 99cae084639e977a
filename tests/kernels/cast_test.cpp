#include "kernels/cpu/cast.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "runtime/core/rng.hpp"

namespace plimsoll {
namespace {

template <class Half>
void check_against_type() {
  for (std::uint32_t bits = 0; bits < 0x10000U; ++bits) {
    Half h;
    h.bits = static_cast<std::uint16_t>(bits);
    const auto expected = static_cast<float>(h);
    if (std::isnan(expected))
      ASSERT_TRUE(std::isnan(widen(h))) << bits;
    else
      ASSERT_EQ(std::bit_cast<std::uint32_t>(widen(h)), std::bit_cast<std::uint32_t>(expected)) << bits;
  }
  const RandomStream stream(1, "cast");
  for (std::uint64_t i = 0; i < 300000; ++i) {
    const auto x = std::bit_cast<float>(stream.bits(i));
    ASSERT_EQ(convert<Half>(x).bits, Half(x).bits) << x;
  }
}

TEST(CastElements, AgreeWithTheStorageTypes) {
  check_against_type<f16>();
  check_against_type<bf16>();
}

// A double just beside the middle of two neighbours would be rounded to the middle first, then to the even one.
template <class Half>
void check_double(std::uint32_t last) {
  for (std::uint32_t bits = 0; bits < last; bits += 7) {
    Half low, high;
    low.bits = static_cast<std::uint16_t>(bits);
    high.bits = static_cast<std::uint16_t>(bits + 1);
    const double middle = (double(float(low)) + double(float(high))) / 2;
    const double infinity = std::numeric_limits<double>::infinity();
    ASSERT_EQ(convert<Half>(middle).bits, (bits & 1U) == 0 ? bits : bits + 1);
    ASSERT_EQ(convert<Half>(std::nextafter(middle, 0)).bits, bits);
    ASSERT_EQ(convert<Half>(std::nextafter(middle, infinity)).bits, bits + 1);
    ASSERT_EQ(convert<Half>(-std::nextafter(middle, infinity)).bits, (bits + 1) | 0x8000U);
    ASSERT_EQ(convert<double>(low), double(float(low)));
  }
  EXPECT_TRUE(std::isinf(float(convert<Half>(1e300))));
  EXPECT_TRUE(std::isnan(float(convert<Half>(std::nan("")))));
}

TEST(CastElements, DoublesAreRoundedOnce) {
  check_double<f16>(0x7BFF);
  check_double<bf16>(0x7F7F);
}

}  // namespace
}  // namespace plimsoll
