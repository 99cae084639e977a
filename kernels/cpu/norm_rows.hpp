#pragma once
// What normalisations do with one row of h elements.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/cpu/parallel.hpp"

namespace plimsoll {

// Σ f(i): vector lanes within a span of 1024 elements, spans in double, so that long rows lose nothing.
template <class T, class F>
[[gnu::always_inline]] inline double row_sum(std::int64_t h, F&& f) {
  constexpr std::int64_t kSpan = 1024;
  double total = 0;
  for (std::int64_t begin = 0; begin < h; begin += kSpan) {
    const std::int64_t end = std::min(h, begin + kSpan);
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = begin; i < end; ++i) sum += f(i);
    total += static_cast<double>(sum);
  }
  return total;
}

template <class T>
Wide<T> row_mean(const T* x, std::int64_t h) {
  using W = Wide<T>;
  return static_cast<W>(row_sum<W>(h, [=](std::int64_t i) { return widen(x[i]); }) / static_cast<double>(h));
}

// 1 / sqrt(mean((x - center)²) + eps)
template <class T>
Wide<T> row_rstd(const T* x, std::int64_t h, Wide<T> center, double eps) {
  using W = Wide<T>;
  const double squares = row_sum<W>(h, [=](std::int64_t i) { return (widen(x[i]) - center) * (widen(x[i]) - center); });
  return static_cast<W>(1 / std::sqrt(squares / static_cast<double>(h) + eps));
}

// sums += dy · (x - center) · scale, the row's part of the gradient of the weight.
template <class T>
void add_weight_row(const T* x, const T* dy, Wide<T>* sums, std::int64_t h, Wide<T> center, Wide<T> scale) {
  store_range(sums, true, 0, h, [=](std::int64_t i) { return widen(dy[i]) * ((widen(x[i]) - center) * scale); });
}

// With x̂ = (x - center)·scale and g = dy·weight: dx = scale·(g - mean(g) - x̂·mean(g·x̂)), the mean of g only when
// Centered; plus dsum (may be null) and, when accumulating, the old dx. dx may be dsum.
template <bool Centered, class T>
void norm_row_gradient(const T* x, const T* dy, const T* weight, const T* dsum, T* dx, std::int64_t h, Wide<T> center,
                       Wide<T> scale, bool accumulate) {
  using W = Wide<T>;
  const double inverse = 1 / static_cast<double>(h);
  const auto g = [=](std::int64_t i) { return widen(dy[i]) * widen(weight[i]); };
  W mean_g = 0;
  if constexpr (Centered) {
    mean_g = static_cast<W>(row_sum<W>(h, g) * inverse);
  }
  const W mean_gx =
      static_cast<W>(row_sum<W>(h, [=](std::int64_t i) { return g(i) * ((widen(x[i]) - center) * scale); }) * inverse);
  const auto gradient = [=](std::int64_t i) {
    return scale * (g(i) - mean_g - (widen(x[i]) - center) * scale * mean_gx);
  };
  if (dsum != nullptr) {
    store_range(dx, accumulate, 0, h, [=](std::int64_t i) { return widen(dsum[i]) + gradient(i); });
  } else {
    store_range(dx, accumulate, 0, h, gradient);
  }
}

// out (+)= the sum over blocks of partials [blocks, h], in block order.
template <class T>
void sum_partials(int threads, const T* partials, std::int64_t blocks, std::int64_t h, T* out, bool accumulate) {
  constexpr std::int64_t kColumns = 256;
  parallel_blocks(threads, (h + kColumns - 1) / kColumns, blocks * h, [=](std::int64_t block) {
    const std::int64_t begin = block * kColumns, n = std::min(h, begin + kColumns) - begin;
    T sums[kColumns] = {};
    for (std::int64_t b = 0; b < blocks; ++b) {
      const T* part = partials + b * h + begin;
      store_range(sums, true, 0, n, [=](std::int64_t i) { return part[i]; });
    }
    const T* total = sums;
    store_range(out + begin, accumulate, 0, n, [=](std::int64_t i) { return total[i]; });
  });
}

}  // namespace plimsoll
