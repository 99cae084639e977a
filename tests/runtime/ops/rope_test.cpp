#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "runtime/ops/attention.hpp"

namespace plimsoll {
namespace {

TEST(RopeFrequencies, FallGeometrically) {
  const std::vector<double> f = rope_inverse_frequencies({.theta = 10000}, 64);
  ASSERT_EQ(f.size(), 32U);
  EXPECT_EQ(f[0], 1);
  for (std::size_t i = 0; i < f.size(); ++i) EXPECT_NEAR(f[i], 1 / std::pow(10000.0, 2.0 * double(i) / 64), 1e-15);
}

TEST(RopeFrequencies, LinearDividesAll) {
  const std::vector<double> plain = rope_inverse_frequencies({.theta = 500}, 10);
  const std::vector<double> f =
      rope_inverse_frequencies({.theta = 500, .stretch = RopeStretch::Linear, .factor = 4}, 10);
  for (std::size_t i = 0; i < f.size(); ++i) EXPECT_EQ(f[i], plain[i] / 4);
}

// Llama 3.1, by wavelengths as its model code has it.
TEST(RopeFrequencies, Llama3ByWavelength) {
  const RopeRule rule{.theta = 500000,
                      .stretch = RopeStretch::Llama3,
                      .factor = 8,
                      .low_freq_factor = 1,
                      .high_freq_factor = 4,
                      .original_positions = 8192};
  const std::vector<double> f = rope_inverse_frequencies(rule, 128);
  int kept = 0, stretched = 0, between = 0;
  for (std::size_t i = 0; i < f.size(); ++i) {
    const double plain = std::pow(500000.0, -2.0 * double(i) / 128), wavelength = 2 * std::numbers::pi / plain;
    double expected = plain;
    if (wavelength > 8192.0) {
      expected = plain / 8;
      ++stretched;
    } else if (wavelength < 8192.0 / 4) {
      ++kept;
    } else {
      const double smooth = (8192 / wavelength - 1) / (4.0 - 1);
      expected = (1 - smooth) * plain / 8 + smooth * plain;
      ++between;
    }
    EXPECT_NEAR(f[i], expected, 1e-12 * expected) << i;
  }
  EXPECT_EQ(kept + stretched + between, 64);
  EXPECT_GT(kept, 20);
  EXPECT_GT(stretched, 20);
  EXPECT_GT(between, 3);
}

}  // namespace
}  // namespace plimsoll
