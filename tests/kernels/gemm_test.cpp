#include "kernels/cpu/gemm.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "kernels/cpu/gemm_rate.hpp"
#include "kernels/cpu/product.hpp"
#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

struct Case {
  std::int64_t m, n, k;
};

const std::vector<Case> kCases{{1, 1, 1},   {1, 7, 3},    {5, 1, 9},      {3, 17, 31},    {33, 65, 7},
                               {47, 51, 1}, {64, 64, 64}, {129, 100, 77}, {17, 301, 130}, {50, 255, 900}};

template <class T>
std::vector<T> pattern(std::int64_t size, int seed) {
  std::vector<T> v(static_cast<std::size_t>(size));
  std::uint32_t state = 12345U + 7919U * static_cast<std::uint32_t>(seed);
  for (T& x : v) {
    state = state * 1664525U + 1013904223U;
    x = static_cast<T>((state >> 8) * 0x1p-24 * 2 - 1);
  }
  return v;
}

std::vector<std::string> backends() {
  std::vector<std::string> found;
  for (const char* name : {"libxsmm", "openblas", "onednn", "eigen"}) {
    try {
      set_gemm_backend(name);
      found.emplace_back(name);
    } catch (const Error&) {
    }
  }
  return found;
}

class Gemm : public ::testing::Test {
 protected:
  void TearDown() override {
    set_gemm_backend(backend_);
    omp_set_num_threads(threads_);
  }
  const std::string backend_ = gemm_backend();
  const int threads_ = omp_get_max_threads();
};

// Compares with a naive product in double; rows of every matrix are padded, and the padding of C must survive.
template <class T>
void check_against_naive(const Case& s, bool ta, bool tb, T beta, double unit) {
  const std::int64_t lda = (ta ? s.m : s.k) + 3, ldb = (tb ? s.k : s.n) + 1, ldc = s.n + 2;
  const auto a = pattern<T>((ta ? s.k : s.m) * lda, 1), b = pattern<T>((tb ? s.n : s.k) * ldb, 2);
  const auto before = pattern<T>(s.m * ldc, 3);
  auto c = before;
  if (beta == T(0)) {
    for (std::int64_t i = 0; i < s.m; ++i) std::fill_n(c.begin() + i * ldc, s.n, std::nan(""));
  }
  gemm<T>(ta, tb, s.m, s.n, s.k, a.data(), lda, b.data(), ldb, beta, c.data(), ldc);
  for (std::int64_t i = 0; i < s.m; ++i) {
    for (std::int64_t j = 0; j < ldc; ++j) {
      const std::size_t at = static_cast<std::size_t>(i * ldc + j);
      if (j >= s.n) {
        ASSERT_EQ(c[at], before[at]) << "padding at " << i << "," << j;
        continue;
      }
      double sum = beta == T(0) ? 0 : double(beta) * before[at];
      for (std::int64_t l = 0; l < s.k; ++l) {
        sum += double(a[static_cast<std::size_t>(ta ? l * lda + i : i * lda + l)]) *
               double(b[static_cast<std::size_t>(tb ? j * ldb + l : l * ldb + j)]);
      }
      ASSERT_NEAR(c[at], sum, unit * (4 + double(s.k))) << s.m << "x" << s.n << "x" << s.k << " at " << i << "," << j
                                                        << " ta " << ta << " tb " << tb << " beta " << beta;
    }
  }
}

TEST_F(Gemm, AgreesWithNaiveProductInDouble) {
  for (const std::string& backend : backends()) {
    SCOPED_TRACE(backend);
    set_gemm_backend(backend);
    for (const Case& s : kCases) {
      for (const bool ta : {false, true}) {
        for (const bool tb : {false, true}) {
          for (const double beta : {0.0, 1.0, -0.5}) {
            check_against_naive<float>(s, ta, tb, static_cast<float>(beta), 0x1p-23);
            check_against_naive<double>(s, ta, tb, beta, 0x1p-52);
          }
        }
      }
    }
  }
}

// Rows of B a power of two apart, which a backend may copy together before it multiplies.
TEST_F(Gemm, PackedRowsGiveTheBitsOfPaddedOnes) {
  constexpr std::int64_t kM = 70, kN = 256, kK = 800, kPadded = kN + 3;
  const auto a = pattern<float>(kM * kK, 1), b = pattern<float>(kK * kN, 2);
  std::vector<float> padded(kK * kPadded);
  for (std::int64_t l = 0; l < kK; ++l) std::copy_n(b.begin() + l * kN, kN, padded.begin() + l * kPadded);
  for (const std::string& backend : backends()) {
    set_gemm_backend(backend);
    std::vector<float> c(kM * kN), d(kM * kN);
    gemm<float>(false, false, kM, kN, kK, a.data(), kK, b.data(), kN, 0.0F, c.data(), kN);
    gemm<float>(false, false, kM, kN, kK, a.data(), kK, padded.data(), kPadded, 0.0F, d.data(), kN);
    EXPECT_EQ(std::memcmp(c.data(), d.data(), c.size() * sizeof(float)), 0) << backend;
  }
}

TEST_F(Gemm, EmptyInnerDimensionScalesTheResult) {
  for (const std::string& backend : backends()) {
    set_gemm_backend(backend);
    std::vector<float> c(6, NAN), d(6, 2.0F);
    gemm<float>(false, false, 2, 3, 0, nullptr, 0, nullptr, 3, 0.0F, c.data(), 3);
    gemm<float>(false, false, 2, 3, 0, nullptr, 0, nullptr, 3, 0.5F, d.data(), 3);
    gemm<float>(false, false, 0, 3, 4, nullptr, 4, nullptr, 3, 0.0F, nullptr, 3);
    for (const float x : c) EXPECT_EQ(x, 0.0F);
    for (const float x : d) EXPECT_EQ(x, 1.0F);
  }
}

TEST_F(Gemm, EpilogueSeesEveryFinishedElementOnce) {
  for (const std::string& backend : backends()) {
    SCOPED_TRACE(backend);
    set_gemm_backend(backend);
    for (const Case& s : {Case{400, 130, 24}, Case{130, 400, 24}, Case{5, 3, 2}, Case{5, 3, 0}}) {
      const auto a = pattern<float>(s.m * s.k, 1), b = pattern<float>(s.k * s.n, 2);
      std::vector<float> product(static_cast<std::size_t>(s.m * s.n));
      for (const int threads : {1, 2, 3}) {
        omp_set_num_threads(threads);
        gemm<float>(false, false, s.m, s.n, s.k, a.data(), s.k, b.data(), s.n, 0.0F, product.data(), s.n);
        auto c = product;
        const auto finish = [&](const GemmBlock& block) {
          for (std::int64_t i = block.row; i < block.row_end; ++i) {
            for (std::int64_t j = block.column; j < block.column_end; ++j) {
              c[static_cast<std::size_t>(i * s.n + j)] += static_cast<float>(1000 + i);
            }
          }
        };
        gemm<float>(false, false, s.m, s.n, s.k, a.data(), s.k, b.data(), s.n, 0.0F, c.data(), s.n,
                    GemmEpilogue(finish));
        for (std::int64_t i = 0; i < s.m * s.n; ++i) {
          const auto at = static_cast<std::size_t>(i);
          const std::int64_t row = i / s.n;
          ASSERT_EQ(c[at], product[at] + static_cast<float>(1000 + row)) << at << ", " << threads << " threads";
        }
      }
    }
  }
}

TEST_F(Gemm, BitsDoNotDependOnThreads) {
  for (const Case& s : {Case{160, 230, 192}, Case{301, 70, 900}, Case{1000, 80, 30}}) {
    const auto a = pattern<float>(s.m * s.k, 1), b = pattern<float>(s.n * s.k, 2);
    for (const std::string& backend : backends()) {
      if (backend == "eigen") continue;                   // splits rows so that vector tails move
      if (backend == "openblas" && s.k != 192) continue;  // has kernels of their own for small shares
      set_gemm_backend(backend);
      std::vector<float> first;
      for (const int threads : {1, 2, 3, 4, 7}) {
        omp_set_num_threads(threads);
        std::vector<float> c(static_cast<std::size_t>(s.m * s.n));
        gemm<float>(false, true, s.m, s.n, s.k, a.data(), s.k, b.data(), s.k, 0.0F, c.data(), s.n);
        if (first.empty()) first = c;
        EXPECT_EQ(std::memcmp(first.data(), c.data(), c.size() * sizeof(float)), 0) << backend << " " << threads;
      }
    }
  }
}

// Sums of 16-bit numbers in float; C of their type is rounded once, C of float not at all.
template <class T, class C>
void check_half(const Case& s, bool ta, bool tb) {
  const std::int64_t lda = (ta ? s.m : s.k) + 3, ldb = (tb ? s.k : s.n) + 1, ldc = s.n + 2;
  const auto halves = [](std::int64_t size, int seed) {
    std::vector<T> v;
    for (const float x : pattern<float>(size, seed)) v.push_back(T(x));
    return v;
  };
  const auto a = halves((ta ? s.k : s.m) * lda, 1), b = halves((tb ? s.n : s.k) * ldb, 2);
  std::vector<C> before;
  for (const float x : pattern<float>(s.m * ldc, 3)) before.push_back(C(x));
  std::vector<C> stored(before.size(), C(std::nanf(""))), added = before;
  product(ta, tb, s.m, s.n, s.k, a.data(), lda, b.data(), ldb, false, stored.data(), ldc);
  product(ta, tb, s.m, s.n, s.k, a.data(), lda, b.data(), ldb, true, added.data(), ldc);
  const double unit = std::is_same_v<C, bf16> ? 0x1p-8 : std::is_same_v<C, f16> ? 0x1p-11 : 0;
  for (std::int64_t i = 0; i < s.m; ++i) {
    for (std::int64_t j = 0; j < ldc; ++j) {
      const auto at = static_cast<std::size_t>(i * ldc + j);
      if (j >= s.n) {
        ASSERT_TRUE(std::isnan(float(stored[at])) && float(added[at]) == float(before[at]))
            << "padding " << i << "," << j;
        continue;
      }
      double sum = 0;
      for (std::int64_t l = 0; l < s.k; ++l) {
        sum += double(float(a[static_cast<std::size_t>(ta ? l * lda + i : i * lda + l)])) *
               double(float(b[static_cast<std::size_t>(tb ? j * ldb + l : l * ldb + j)]));
      }
      const double more = sum + double(float(before[at])), sums = 0x1p-23 * (4 + double(s.k));
      ASSERT_NEAR(float(stored[at]), sum, sums + 1.001 * unit * std::fabs(sum))
          << s.m << "x" << s.n << "x" << s.k << " at " << i << "," << j << " ta " << ta << " tb " << tb;
      ASSERT_NEAR(float(added[at]), more, sums + 1.001 * unit * std::fabs(more)) << i << "," << j;
    }
  }
}

// libxsmm's kernels, or tiles of our own.
const std::vector<std::string> kHalfBackends{gemm_backend(), "eigen"};

// Beside the sizes of the others: several panels of depth, blocks of rows and of columns, odd depths.
TEST_F(Gemm, OfHalvesAgreesWithNaiveProductInDouble) {
  std::vector<Case> cases = kCases;
  for (const Case& s : {Case{61, 70, 801}, Case{801, 66, 6}, Case{200, 290, 10}, Case{0, 3, 4}, Case{3, 5, 0}}) {
    cases.push_back(s);
  }
  for (const std::string& backend : kHalfBackends) {
    SCOPED_TRACE(backend);
    set_gemm_backend(backend);
    for (const Case& s : cases) {
      for (const bool ta : {false, true}) {
        for (const bool tb : {false, true}) {
          check_half<bf16, bf16>(s, ta, tb);
          check_half<bf16, float>(s, ta, tb);
          check_half<f16, f16>(s, ta, tb);
          check_half<f16, float>(s, ta, tb);
        }
      }
    }
  }
}

template <class T>
void check_half_threads(const Case& s, bool ta) {
  std::vector<T> a, b;
  for (const float x : pattern<float>(s.m * s.k, 1)) a.push_back(T(x));
  for (const float x : pattern<float>(s.n * s.k, 2)) b.push_back(T(x));
  std::vector<float> first;
  for (const int threads : {1, 2, 3, 4, 7}) {
    omp_set_num_threads(threads);
    std::vector<float> c(static_cast<std::size_t>(s.m * s.n));
    product(ta, !ta, s.m, s.n, s.k, a.data(), ta ? s.m : s.k, b.data(), ta ? s.n : s.k, false, c.data(), s.n);
    if (first.empty()) first = c;
    EXPECT_EQ(std::memcmp(first.data(), c.data(), c.size() * sizeof(float)), 0) << threads << " threads";
  }
}

TEST_F(Gemm, BitsOfHalvesDoNotDependOnThreads) {
  for (const std::string& backend : kHalfBackends) {
    SCOPED_TRACE(backend);
    set_gemm_backend(backend);
    for (const Case& s : {Case{160, 230, 192}, Case{301, 70, 901}, Case{1000, 80, 30}, Case{37, 700, 900}}) {
      for (const bool ta : {false, true}) {
        check_half_threads<bf16>(s, ta);
        check_half_threads<f16>(s, ta);
      }
    }
  }
}

TEST_F(Gemm, RejectsWhatCannotBeHonoured) {
  std::vector<bf16> half(12);
  EXPECT_THROW(product(false, false, 2, 3, 4, half.data(), 3, half.data(), 3, false, half.data(), 3), Error);
  EXPECT_THROW(product(false, false, 2, -3, 4, half.data(), 4, half.data(), 3, false, half.data(), 3), Error);
  float x = 0;
  EXPECT_THROW(gemm<float>(false, false, 2, 3, 4, &x, 3, &x, 3, 0.0F, &x, 3), Error);
  EXPECT_THROW(gemm<float>(false, false, -1, 3, 4, &x, 4, &x, 3, 0.0F, &x, 3), Error);
  try {
    set_gemm_backend("abacus");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::Config);
    EXPECT_NE(std::string(e.what()).find("eigen"), std::string::npos);
  }
}

TEST_F(Gemm, MeasuresARate) {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16})
    EXPECT_GT(measure_gemm_gflops(1, dtype), 0.5) << dtype_name(dtype);
  EXPECT_THROW(measure_gemm_gflops(1, DType::i32), Error);
  EXPECT_THROW(measure_gemm_gflops(0, DType::f32), Error);
  EXPECT_EQ(omp_get_max_threads(), threads_);
  EXPECT_FALSE(gemm_description().empty());
}

}  // namespace
}  // namespace plimsoll
