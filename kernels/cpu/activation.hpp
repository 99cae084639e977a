#pragma once
// The activations and their slopes for one element, and over ranges for kernels that fuse them (linear, activate,
// swiglu).

#include <numbers>
#include <type_traits>

#include "kernels/cpu/cast.hpp"
#include "kernels/cpu/math.hpp"
#include "runtime/ops/pointwise.hpp"

namespace plimsoll {

// tanh(u) = 2·sigmoid(2u) - 1, so GELU's tanh form is x·sigmoid(2u) with u = √(2/π)·(x + 0.044715·x³): no cancellation.
template <class T>
struct GeluTanhArgument {
  static constexpr T kLinear = static_cast<T>(1.5957691216057307118);  // 2·√(2/π)
  static constexpr T kCubic = static_cast<T>(0.044715 * 1.5957691216057307118);
};

// sigmoid and its slope from e^-|v|, so that neither is a difference of near numbers.
template <class T>
struct SigmoidSlope {
  T value, slope;
  [[gnu::always_inline]] explicit SigmoidSlope(T v) {
    const T e = vec::exp(-std::fabs(v));
    const T positive = T(1) / (T(1) + e);
    const T negative = e * positive;
    value = v < T(0) ? negative : positive;
    slope = negative * positive;
  }
};

template <Activation A, class T>
[[gnu::always_inline]] inline T activation_value(T x) {
  using Gelu = GeluTanhArgument<T>;
  if constexpr (A == Activation::GeluTanh) return x * vec::sigmoid(x * (Gelu::kLinear + Gelu::kCubic * x * x));
  if constexpr (A == Activation::GeluErf) {
    return T(0.5) * x * (T(1) + vec::erf(x * (T(1) / std::numbers::sqrt2_v<T>)));
  }
  if constexpr (A == Activation::Silu) return x * vec::sigmoid(x);
  if constexpr (A == Activation::Relu) return x > T(0) ? x : T(0);
  return x;
}

// d activation_value / dx
template <Activation A, class T>
[[gnu::always_inline]] inline T activation_slope(T x) {
  using Gelu = GeluTanhArgument<T>;
  if constexpr (A == Activation::GeluTanh) {
    const SigmoidSlope<T> s(x * (Gelu::kLinear + Gelu::kCubic * x * x));
    return s.value + x * s.slope * (Gelu::kLinear + T(3) * Gelu::kCubic * x * x);
  }
  if constexpr (A == Activation::GeluErf) {
    constexpr T kDensity = std::numbers::inv_sqrtpi_v<T> / std::numbers::sqrt2_v<T>;
    const T cumulative = T(0.5) * (T(1) + vec::erf(x * (T(1) / std::numbers::sqrt2_v<T>)));
    return cumulative + x * kDensity * vec::exp(T(-0.5) * x * x);
  }
  if constexpr (A == Activation::Silu) {
    const SigmoidSlope<T> s(x);
    return s.value + x * s.slope;
  }
  if constexpr (A == Activation::Relu) return x > T(0) ? T(1) : T(0);
  return T(1);
}

// Calls f with the activation as a compile-time constant: f(std::integral_constant<Activation, A>{}).
template <class F>
void with_activation(Activation kind, F&& f) {
  switch (kind) {
    case Activation::None: return f(std::integral_constant<Activation, Activation::None>{});
    case Activation::GeluTanh: return f(std::integral_constant<Activation, Activation::GeluTanh>{});
    case Activation::GeluErf: return f(std::integral_constant<Activation, Activation::GeluErf>{});
    case Activation::Silu: return f(std::integral_constant<Activation, Activation::Silu>{});
    case Activation::Relu: return f(std::integral_constant<Activation, Activation::Relu>{});
  }
}

// y[i] = act(x[i]); y may be x.
template <Activation A, class T>
void activate_range(const T* x, T* y, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) y[i] = convert<T>(activation_value<A>(widen(x[i])));
}

// dx[i] = dy[i]·act'(x[i]); dx may be dy.
template <Activation A, class T>
void activate_range_backward(const T* x, const T* dy, T* dx, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) dx[i] = convert<T>(widen(dy[i]) * activation_slope<A>(widen(x[i])));
}

}  // namespace plimsoll
