#include "kernels/cpu/packed_gemm.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu/activation.hpp"
#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

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

struct Shape {
  std::int64_t m, n, k;
};

// Sizes around every edge: tiles, vectors, slivers, blocks of depth, blocks of columns and of rows.
const std::vector<Shape> kShapes{{1, 1, 1},      {8, 48, 16},    {7, 47, 5},    {9, 49, 33},    {64, 96, 768},
                                 {65, 193, 769}, {130, 100, 77}, {13, 50, 800}, {200, 850, 37}, {33, 250, 1600}};

class PackedGemm : public ::testing::Test {
 protected:
  void TearDown() override { omp_set_num_threads(threads_); }

  template <class T>
  void run(const PackedProduct<T>& p, int threads) {
    omp_set_num_threads(threads);
    workspace_.resize(static_cast<std::size_t>(packed_gemm_workspace_bytes(threads)) + 4);
    packed_gemm(p, threads, workspace_.data() + 4);  // any alignment will do
  }

  std::vector<std::byte> workspace_;
  const int threads_ = omp_get_max_threads();
};

// All operands of one product, with padded rows, and its result in double.
template <class T>
struct Problem {
  Problem(const Shape& s, bool ta, bool tb, T beta) : shape(s) {
    p.trans_a = ta, p.trans_b = tb, p.m = s.m, p.n = s.n, p.k = s.k, p.beta = beta;
    p.lda = (ta ? s.m : s.k) + 3, p.ldb = (tb ? s.k : s.n) + 1, p.ldc = s.n + 2;
    a = pattern<T>((ta ? s.k : s.m) * p.lda, 1), b = pattern<T>((tb ? s.n : s.k) * p.ldb, 2);
    before = pattern<T>(s.m * p.ldc, 3);
    c = before;
    if (beta == T(0)) {
      for (std::int64_t i = 0; i < s.m; ++i) std::fill_n(c.begin() + i * p.ldc, s.n, T(NAN));
    }
    p.a = a.data(), p.b = b.data(), p.c = c.data();
  }
  double op_a(std::int64_t i, std::int64_t l) const {
    return a[static_cast<std::size_t>(p.trans_a ? l * p.lda + i : i * p.lda + l)];
  }
  double op_b(std::int64_t l, std::int64_t j) const {
    return b[static_cast<std::size_t>(p.trans_b ? j * p.ldb + l : l * p.ldb + j)];
  }
  double expected(std::int64_t i, std::int64_t j) const {
    double sum = p.beta == T(0) ? 0 : before[static_cast<std::size_t>(i * p.ldc + j)];
    for (std::int64_t l = 0; l < shape.k; ++l) sum += op_a(i, l) * op_b(l, j);
    return sum;
  }
  void expect_close(double unit) const {
    for (std::int64_t i = 0; i < shape.m; ++i) {
      for (std::int64_t j = 0; j < p.ldc; ++j) {
        const T got = c[static_cast<std::size_t>(i * p.ldc + j)];
        if (j >= shape.n) {
          ASSERT_EQ(got, before[static_cast<std::size_t>(i * p.ldc + j)]) << "padding at " << i << "," << j;
        } else {
          ASSERT_NEAR(got, expected(i, j), unit * (4 + static_cast<double>(shape.k)))
              << shape.m << "x" << shape.n << "x" << shape.k << " at " << i << "," << j;
        }
      }
    }
  }
  Shape shape;
  PackedProduct<T> p;
  std::vector<T> a, b, before, c;
};

TEST_F(PackedGemm, AgreesWithNaiveProductInDouble) {
  for (const Shape& s : kShapes) {
    for (const bool ta : {false, true}) {
      for (const bool tb : {false, true}) {
        for (const float beta : {0.0F, 1.0F}) {
          SCOPED_TRACE(testing::Message() << "ta " << ta << " tb " << tb << " beta " << beta);
          Problem<float> single(s, ta, tb, beta);
          run(single.p, 2);
          single.expect_close(0x1p-23);
          Problem<double> twice(s, ta, tb, beta);
          run(twice.p, 2);
          twice.expect_close(0x1p-52);
        }
      }
    }
  }
}

TEST_F(PackedGemm, BitsDoNotDependOnThreadsOrOnSplits) {
  if (!packed_gemm_is_native()) GTEST_SKIP() << "no register tiles for this CPU";
  for (const Shape& s : {Shape{130, 500, 900}, Shape{57, 1200, 70}}) {
    for (const bool ta : {false, true}) {
      for (const bool tb : {false, true}) {
        Problem<float> whole(s, ta, tb, 1), other(s, ta, tb, 1);
        run(whole.p, 1);
        for (const int threads : {2, 3, 5}) {
          other.c = other.before;
          run(other.p, threads);
          ASSERT_EQ(std::memcmp(whole.c.data(), other.c.data(), whole.c.size() * 4), 0) << threads << " threads";
        }
        // The same product as four calls, cut where no tile ends.
        other.c = other.before;
        const std::int64_t row = 37, column = 203;
        for (const auto& [i0, i1] : {std::pair<std::int64_t, std::int64_t>{0, row}, {row, s.m}}) {
          for (const auto& [j0, j1] : {std::pair<std::int64_t, std::int64_t>{0, column}, {column, s.n}}) {
            PackedProduct<float> p = other.p;
            p.m = i1 - i0, p.n = j1 - j0;
            p.a += ta ? i0 : i0 * p.lda;
            p.b += tb ? j0 * p.ldb : j0;
            p.c += i0 * p.ldc + j0;
            run(p, 2);
          }
        }
        ASSERT_EQ(std::memcmp(whole.c.data(), other.c.data(), whole.c.size() * 4), 0) << "split";
      }
    }
  }
}

TEST_F(PackedGemm, FusedBiasAndActivationEqualSeparateOnes) {
  const Shape s{77, 130, 800};
  const auto bias = pattern<float>(s.n, 5);
  for (const Activation kind :
       {Activation::None, Activation::GeluTanh, Activation::GeluErf, Activation::Silu, Activation::Relu}) {
    Problem<float> plain(s, false, true, 0), fused(s, false, true, 0), in_place(s, false, true, 0);
    std::vector<float> activated(static_cast<std::size_t>(s.m * s.n), NAN);
    run(plain.p, 2);
    fused.p.bias = bias.data(), fused.p.activation = kind, fused.p.activated = activated.data();
    fused.p.ldactivated = s.n;
    run(fused.p, 2);
    in_place.p.bias = bias.data(), in_place.p.activation = kind, in_place.p.activated = in_place.c.data();
    in_place.p.ldactivated = in_place.p.ldc;
    run(in_place.p, 2);
    for (std::int64_t i = 0; i < s.m; ++i) {
      std::vector<float> separate(static_cast<std::size_t>(s.n));
      float* row = plain.c.data() + i * plain.p.ldc;
      for (std::size_t j = 0; j < bias.size(); ++j) row[j] += bias[j];
      with_activation(kind, [&](auto activation) { activate_range<activation>(row, separate.data(), s.n); });
      ASSERT_EQ(std::memcmp(plain.c.data() + i * plain.p.ldc, fused.c.data() + i * fused.p.ldc, separate.size() * 4),
                0);
      ASSERT_EQ(std::memcmp(separate.data(), activated.data() + i * s.n, separate.size() * 4), 0) << "row " << i;
      ASSERT_EQ(std::memcmp(separate.data(), in_place.c.data() + i * in_place.p.ldc, separate.size() * 4), 0);
    }
  }
}

TEST_F(PackedGemm, SumsOfThePackedOperand) {
  const Shape s{150, 110, 900};
  for (const float beta : {0.0F, 1.0F}) {
    for (const bool of_a : {true, false}) {
      std::vector<float> first;
      for (const int threads : {1, 2, 3}) {
        Problem<float> problem(s, of_a, false, beta);
        auto sums = pattern<float>(of_a ? s.m : s.n, 9);
        const auto before = sums;
        (of_a ? problem.p.row_sum_a : problem.p.column_sum_b) = sums.data();
        run(problem.p, threads);
        problem.expect_close(0x1p-23);
        for (std::int64_t i = 0; i < (of_a ? s.m : s.n); ++i) {
          double sum = beta == 0 ? 0 : before[static_cast<std::size_t>(i)];
          for (std::int64_t l = 0; l < s.k; ++l) sum += of_a ? problem.op_a(i, l) : problem.op_b(l, i);
          ASSERT_NEAR(sums[static_cast<std::size_t>(i)], sum, 1e-4);
        }
        if (first.empty()) first = sums;
        ASSERT_EQ(first, sums) << threads << " threads";
      }
    }
  }
}

TEST_F(PackedGemm, RejectsContradictions) {
  Problem<float> problem({4, 5, 6}, false, false, 0);
  EXPECT_THROW(packed_gemm(problem.p, 1, nullptr), Error);
  float sums[8] = {};
  problem.p.row_sum_a = sums;
  EXPECT_THROW(run(problem.p, 1), Error);
  problem.p.row_sum_a = nullptr;
  problem.p.beta = 0.5F;
  EXPECT_THROW(run(problem.p, 1), Error);
}

}  // namespace
}  // namespace plimsoll
