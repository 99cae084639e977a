#include "kernels/cpu/gemm_rate.hpp"

#include <omp.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>

#include "kernels/cpu/product.hpp"
#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

template <class T>
double fastest_product(int threads) {
  struct Size {
    std::int64_t m, n, k;
  };
  constexpr std::array kShapes{Size{512, 2304, 768}, Size{512, 768, 3072}, Size{1024, 3072, 768}};
  constexpr double kSecondsPerShape = 0.04, kMostSeconds = 2, kGain = 1.01;
  const auto filled = [&](std::int64_t Size::*rows, std::int64_t Size::*columns) {
    std::int64_t size = 1;
    for (const Size& s : kShapes) size = std::max(size, s.*rows * s.*columns);
    auto p = std::make_unique<T[]>(static_cast<std::size_t>(size));
    for (std::int64_t i = 0; i < size; ++i) p[i] = T(static_cast<float>(i % 64) * 0.01F - 0.3F);
    return p;
  };
  const auto a = filled(&Size::m, &Size::k), b = filled(&Size::k, &Size::n), c = filled(&Size::m, &Size::n);
  using Clock = std::chrono::steady_clock;
  const int threads_before = omp_get_max_threads();
  omp_set_num_threads(threads);
  double best = 0;
  const auto begin = Clock::now();
  const auto seconds_since = [](Clock::time_point from) {
    return std::chrono::duration<double>(Clock::now() - from).count();
  };
  // The first round warms up; until two bring nothing, as another process on the cores may slow one.
  int idle_rounds = 0;
  while (idle_rounds < 2 && seconds_since(begin) < kMostSeconds) {
    const double before = best;
    for (const Size& s : kShapes) {
      const auto start = Clock::now();
      do {
        const auto from = Clock::now();
        product<T, T>(false, true, s.m, s.n, s.k, a.get(), s.k, b.get(), s.k, false, c.get(), s.n);
        best = std::max(best, 2e-9 * static_cast<double>(s.m * s.n * s.k) / seconds_since(from));
      } while (seconds_since(start) < kSecondsPerShape);
    }
    idle_rounds = best < kGain * before ? idle_rounds + 1 : 0;
  }
  omp_set_num_threads(threads_before);
  return best;
}

}  // namespace

double measure_gemm_gflops(int threads, DType dtype) {
  require(threads >= 1, ErrorKind::Internal, "measure_gemm_gflops: {} threads", threads);
  switch (dtype) {
    case DType::f32: return fastest_product<float>(threads);
    case DType::f64: return fastest_product<double>(threads);
    case DType::bf16: return fastest_product<bf16>(threads);
    case DType::f16: return fastest_product<f16>(threads);
    default: fail(ErrorKind::Internal, "measure_gemm_gflops: {}", dtype_name(dtype));
  }
}

}  // namespace plimsoll
