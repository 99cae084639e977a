#pragma once
// The activations and their slopes, in float: the formulas of kernels/cpu/activation.hpp.

#include "runtime/ops/activation.hpp"

namespace plimsoll::cuda {

// sigmoid and its slope from e^-|v|, so that neither is a difference of near numbers.
struct Sigmoid {
  float value, slope;
  __device__ explicit Sigmoid(float v) {
    const float e = expf(-fabsf(v));
    const float positive = 1.0F / (1.0F + e), negative = e * positive;
    value = v < 0 ? negative : positive;
    slope = negative * positive;
  }
};

// GELU's tanh form is x · sigmoid(x · (kLinear + kCubic · x²)).
inline constexpr float kGeluLinear = 1.5957691216057307118F;
inline constexpr float kGeluCubic = 0.044715F * 1.5957691216057307118F;
inline constexpr float kInverseRoot2 = 0.70710678118654752440F;
inline constexpr float kNormalDensity = 0.39894228040143267794F;  // 1 / √(2π)

__device__ inline float activation_value(Activation kind, float x) {
  switch (kind) {
    case Activation::GeluTanh: return x * Sigmoid(x * (kGeluLinear + kGeluCubic * x * x)).value;
    case Activation::GeluErf: return 0.5F * x * (1.0F + erff(x * kInverseRoot2));
    case Activation::Silu: return x * Sigmoid(x).value;
    case Activation::Relu: return x > 0 ? x : 0.0F;
    case Activation::None: break;
  }
  return x;
}

// d activation_value / dx
__device__ inline float activation_slope(Activation kind, float x) {
  switch (kind) {
    case Activation::GeluTanh: {
      const Sigmoid s(x * (kGeluLinear + kGeluCubic * x * x));
      return s.value + x * s.slope * (kGeluLinear + 3.0F * kGeluCubic * x * x);
    }
    case Activation::GeluErf: return 0.5F * (1.0F + erff(x * kInverseRoot2)) + x * kNormalDensity * expf(-0.5F * x * x);
    case Activation::Silu: {
      const Sigmoid s(x);
      return s.value + x * s.slope;
    }
    case Activation::Relu: return x > 0 ? 1.0F : 0.0F;
    case Activation::None: break;
  }
  return 1.0F;
}

}  // namespace plimsoll::cuda
