#include "kernels/cpu/math.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "kernels/cpu/activation.hpp"
#include "kernels/cpu/random.hpp"

namespace plimsoll {
namespace {

// The largest error of f against the double function g over about a million floats of [low, high], relative to |g| or
// absolute.
template <class F, class G>
double largest_error(float low, float high, bool relative, F&& f, G&& g) {
  double worst = 0;
  for (int i = 0; i <= 1000000; ++i) {
    const auto x = static_cast<float>(low + (static_cast<double>(high) - low) * i * 1e-6);
    const double exact = g(static_cast<double>(x)), error = std::fabs(static_cast<double>(f(x)) - exact);
    worst = std::max(worst, relative ? error / std::max(std::fabs(exact), 1e-300) : error);
  }
  return worst;
}

constexpr float kInfinity = std::numeric_limits<float>::infinity();
const float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(VectorMath, Exp) {
  const auto f = [](float x) { return vec::exp(x); };
  const auto g = [](double x) { return std::exp(x); };
  EXPECT_LT(largest_error(-87.3F, 88.72F, true, f, g), 1.2e-7);
  EXPECT_LT(largest_error(-1, 1, true, f, g), 1.2e-7);
  EXPECT_LT(largest_error(-110, -87.3F, false, f, g), 3e-45);  // subnormal results
  EXPECT_EQ(vec::exp(0.0F), 1.0F);
  EXPECT_EQ(vec::exp(89.0F), kInfinity);
  EXPECT_EQ(vec::exp(kInfinity), kInfinity);
  EXPECT_EQ(vec::exp(-kInfinity), 0.0F);
  EXPECT_TRUE(std::isnan(vec::exp(kNan)));
}

TEST(VectorMath, Erf) {
  const auto f = [](float x) { return vec::erf(x); };
  const auto g = [](double x) { return std::erf(x); };
  EXPECT_LT(largest_error(1e-6F, 5, true, f, g), 2e-7);
  EXPECT_LT(largest_error(-5, -1e-6F, true, f, g), 2e-7);
  EXPECT_LT(largest_error(-1e-3F, 1e-3F, false, f, g), 1.2e-10);
  EXPECT_EQ(vec::erf(0.0F), 0.0F);
  EXPECT_EQ(vec::erf(kInfinity), 1.0F);
  EXPECT_EQ(vec::erf(-kInfinity), -1.0F);
  EXPECT_TRUE(std::isnan(vec::erf(kNan)));
}

template <Activation A>
void check_activation(double reference_at_one) {
  EXPECT_NEAR(activation_value<A>(1.0), reference_at_one, 1e-12);
  const auto value = [](auto x) { return activation_value<A>(x); };
  const auto slope = [](auto x) { return activation_slope<A>(x); };
  EXPECT_LT(largest_error(-10, 10, false, value, value), 2e-6);
  EXPECT_LT(largest_error(-10, 10, false, slope, slope), 6e-7);
  for (int i = 0; i < 93; ++i) {
    const double x = -8 + 0.173 * i;
    EXPECT_NEAR(slope(x), (value(x + 1e-6) - value(x - 1e-6)) / 2e-6, 1e-8) << x;
  }
  EXPECT_EQ(value(100.0F), 100.0F);
  EXPECT_NEAR(value(-100.0F), 0.0F, 1e-30F);
  EXPECT_EQ(slope(100.0F), 1.0F);
  EXPECT_NEAR(slope(-100.0F), 0.0F, 1e-30F);
}

TEST(Activations, GeluTanh) {
  check_activation<Activation::GeluTanh>(0.5 * (1 + std::tanh(std::sqrt(2 / M_PI) * (1 + 0.044715))));
}
TEST(Activations, GeluErf) { check_activation<Activation::GeluErf>(0.5 * (1 + std::erf(1 / std::sqrt(2.0)))); }
TEST(Activations, Silu) { check_activation<Activation::Silu>(1 / (1 + std::exp(-1.0))); }
TEST(Activations, Relu) {
  EXPECT_EQ(activation_value<Activation::Relu>(-2.0F), 0.0F);
  EXPECT_EQ(activation_value<Activation::Relu>(2.0F), 2.0F);
  EXPECT_EQ(activation_slope<Activation::Relu>(-2.0F), 0.0F);
  EXPECT_EQ(activation_slope<Activation::Relu>(2.0F), 1.0F);
}

TEST(VectorRandom, SixteenBlocksAreThoseOfTheStream) {
  const RandomStream stream(0x123456789ULL, std::uint64_t{0xABCDEF0123ULL});
  for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{77}, std::uint64_t{0xFFFFFFFA}}) {
    std::uint32_t bits[4 * kPhiloxLanes];
    philox_lanes(0x123456789ULL, 0xABCDEF0123ULL, first, bits);
    for (std::uint64_t i = 0; i < 4 * kPhiloxLanes; ++i) EXPECT_EQ(bits[i], stream.bits(4 * first + i));
  }
}

TEST(VectorRandom, RangesStartAnywhere) {
  const RandomStream stream(5, std::uint64_t{6});
  for (const std::uint64_t first : {0U, 1U, 2U, 3U, 4U, 63U}) {
    for (const std::int64_t count : {0, 1, 5, 63, 64, 65, 200}) {
      std::int64_t seen = 0;
      for_random_bits(5, 6, first, count, [&](std::int64_t offset, const std::uint32_t* bits, std::int64_t n) {
        EXPECT_EQ(offset, seen);
        seen += n;
        for (std::int64_t i = 0; i < n; ++i) EXPECT_EQ(bits[i], stream.bits(first + std::uint64_t(offset + i)));
      });
      EXPECT_EQ(seen, count);
    }
  }
}

}  // namespace
}  // namespace plimsoll
