// The CPU's fp8: the numbers and codes of runtime/tensor, products of what fp8 rounds their operands to, maximums.

#include "kernels/cpu/fp8.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/cpu/register.hpp"
#include "tests/support/op_harness.hpp"

namespace plimsoll {
namespace {

using namespace test;

// Every bf16, and the floats around the middles between neighbours.
template <class F8>
std::vector<float> interesting_floats() {
  std::vector<float> all{std::numeric_limits<float>::max(), std::numeric_limits<float>::denorm_min()};
  for (std::uint32_t bits = 0; bits < 0x10000U; ++bits) {
    bf16 half;
    half.bits = static_cast<std::uint16_t>(bits);
    all.push_back(static_cast<float>(half));
  }
  for (std::uint32_t bits = 0; bits < 0x7FU; ++bits) {
    F8 low, high;
    low.bits = static_cast<std::uint8_t>(bits);
    high.bits = static_cast<std::uint8_t>(bits + 1);
    const float middle = (static_cast<float>(low) + static_cast<float>(high)) / 2;
    for (const float x : {middle, std::nextafter(middle, 0.0F), std::nextafter(middle, 1e30F)}) {
      all.push_back(x);
      all.push_back(-x);
    }
  }
  return all;
}

template <class F8, Fp8Role role>
void expect_same_numbers() {
  for (const float x : interesting_floats<F8>()) {
    const float expected = static_cast<float>(F8(x)), found = round_to_fp8<role>(x);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(found)) << x;
    } else {
      ASSERT_EQ(found, expected) << x;
      ASSERT_EQ(std::signbit(found), std::signbit(expected)) << x;
    }
  }
}

TEST(CpuFp8, RoundsAsTheTypesDo) {
  expect_same_numbers<F8E4M3, Fp8Role::Input>();
  expect_same_numbers<F8E4M3, Fp8Role::Weight>();
  expect_same_numbers<F8E5M2, Fp8Role::Gradient>();
}

TEST(CpuFp8, CodesAreThoseOfTheType) {
  for (std::uint32_t bits = 0; bits < 0x100U; ++bits) {
    F8E4M3 code;
    code.bits = static_cast<std::uint8_t>(bits);
    const auto number = static_cast<float>(code);
    if (std::isnan(number)) {
      EXPECT_TRUE(std::isnan(e4m3_number(code))) << bits;
      EXPECT_EQ(e4m3_code(number).bits & 0x7FU, 0x7FU) << bits;
    } else {
      EXPECT_EQ(e4m3_number(code), number) << bits;
      EXPECT_EQ(e4m3_code(number).bits, bits);
    }
  }
}

OpCase linear_case(DType dtype, std::int64_t rows, std::int64_t in, std::int64_t out, bool weight_in_out) {
  const OpInfo& op = op_info("linear_fp8");
  OpCase c{&op, Attrs(std::in_place_index<op_id<LinearFp8>>, LinearFp8::Attrs{weight_in_out}), {}, 0};
  c.specs.set(LinearFp8::kX, {{rows, in}, dtype});
  c.specs.set(LinearFp8::kX8, {{rows, in}, DType::f8e4m3});
  c.specs.set(LinearFp8::kWeight, {weight_in_out ? Shape{in, out} : Shape{out, in}, dtype});
  c.specs.set(LinearFp8::kBias, {{out}, dtype});
  c.specs.set(LinearFp8::kScaling, {{2, kFp8Roles}, DType::f32});
  op.infer(c.attrs, c.specs);
  return c;
}

constexpr float kScales[] = {3.7F, 130.0F, 911.0F};

OpInputs scaled_inputs(const OpCase& c) {
  OpInputs in = random_inputs(c, 5);
  in.value[LinearFp8::kScaling] = {kScales[0], kScales[1], kScales[2], 0, 0, 0};
  const auto round = [&](std::vector<double>& x, DType to) { x = to_numbers(to_bytes(x, to), to); };
  for (const int s : {int{LinearFp8::kX8}, int{LinearFp8::kWeight}, int{LinearFp8::kBias}})
    round(in.value[static_cast<std::size_t>(s)], c.specs[s].dtype);
  round(in.grad[LinearFp8::kY], c.specs[LinearFp8::kY].dtype);
  return in;
}

// What fp8 makes of numbers, with its scale taken off again.
template <class F8>
std::vector<double> through(const std::vector<double>& x, float scale) {
  std::vector<double> out;
  for (const double v : x)
    out.push_back(static_cast<double>(static_cast<float>(F8(static_cast<float>(v) * scale))) / scale);
  return out;
}

// Σ_k a(i, k) · b(k, j)
template <class A, class B>
std::vector<double> multiply(std::int64_t m, std::int64_t n, std::int64_t k, const A& a, const B& b) {
  std::vector<double> c;
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (std::int64_t l = 0; l < k; ++l) sum += a(i, l) * b(l, j);
      c.push_back(sum);
    }
  }
  return c;
}

// `unit`: of the roundings of a result by itself. Sums of fifty products in f32 round by up to 50 · 2^-24 of the sum of
// their magnitudes, which is a few times the largest result.
void expect_close(const std::vector<double>& found, const std::vector<double>& expected, double unit) {
  ASSERT_EQ(found.size(), expected.size());
  double largest = 0;
  for (const double x : expected) largest = std::max(largest, std::fabs(x));
  for (std::size_t i = 0; i < found.size(); ++i)
    ASSERT_NEAR(found[i], expected[i], unit * std::fabs(expected[i]) + 1e-5 * largest) << i;
}

// All three products, on sizes of which nothing is a multiple.
TEST(CpuFp8, ProductsAreThoseOfTheRoundedOperands) {
  constexpr std::int64_t kRows = 37, kIn = 51, kOut = 23;
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    for (const bool in_out : {false, true}) {
      const OpCase c = linear_case(dtype, kRows, kIn, kOut, in_out);
      SCOPED_TRACE(c.text());
      const OpInputs in = scaled_inputs(c);
      const OpResult r = run_op(cpu_kernels(), c, in, {.threads = 2});
      std::vector<double> x = in.value[LinearFp8::kX8];
      for (double& v : x) v /= kScales[0];
      const std::vector<double> w = through<F8E4M3>(in.value[LinearFp8::kWeight], kScales[1]),
                                dy = through<F8E5M2>(in.grad[LinearFp8::kY], kScales[2]);
      const auto at = [](const std::vector<double>& v, std::int64_t i) { return v[static_cast<std::size_t>(i)]; };
      const auto x_at = [&](std::int64_t i, std::int64_t l) { return at(x, i * kIn + l); };
      const auto w_at = [&](std::int64_t l, std::int64_t o) { return at(w, in_out ? l * kOut + o : o * kIn + l); };
      const auto dy_at = [&](std::int64_t i, std::int64_t o) { return at(dy, i * kOut + o); };
      std::vector<double> y = multiply(kRows, kOut, kIn, x_at, w_at);
      for (std::size_t i = 0; i < y.size(); ++i) y[i] += in.value[LinearFp8::kBias][i % kOut];
      const auto numbers = [&](const std::vector<std::byte>& bytes, DType as) { return to_numbers(bytes, as); };
      const double unit = dtype == DType::bf16 ? 0x1p-8 : 1e-6;
      expect_close(numbers(r.value[LinearFp8::kY], dtype), y, unit);
      expect_close(numbers(r.grad[LinearFp8::kX], dtype),
                   multiply(kRows, kIn, kOut, dy_at, [&](std::int64_t o, std::int64_t l) { return w_at(l, o); }), unit);
      const auto from_weights = [&](std::int64_t l, std::int64_t i) { return x_at(i, l); };
      const auto turned_dy = [&](std::int64_t o, std::int64_t i) { return dy_at(i, o); };
      const DType wide = wide_dtype(dtype);
      expect_close(
          numbers(r.grad[LinearFp8::kWeight], wide),
          in_out ? multiply(kIn, kOut, kRows, from_weights, dy_at)
                 : multiply(kOut, kIn, kRows, turned_dy, [&](std::int64_t i, std::int64_t l) { return x_at(i, l); }),
          1e-6);
      const auto most = [](const std::vector<double>& v) {
        return std::accumulate(v.begin(), v.end(), 0.0, [](double m, double n) { return std::max(m, std::fabs(n)); });
      };
      const std::vector<double> scaling = numbers(r.value[LinearFp8::kScaling], DType::f32);
      EXPECT_EQ(std::vector(scaling.begin() + kFp8Roles, scaling.end()),
                (std::vector<double>{0, static_cast<float>(most(in.value[LinearFp8::kWeight])),
                                     static_cast<float>(most(in.grad[LinearFp8::kY]))}));
      // The bias is not quantised, nor is what is summed for it.
      std::vector<double> db(kOut, 0.0);
      for (std::size_t i = 0; i < in.grad[LinearFp8::kY].size(); ++i) db[i % kOut] += in.grad[LinearFp8::kY][i];
      expect_close(numbers(r.grad[LinearFp8::kBias], wide), db, 1e-5);
    }
  }
}

TEST(CpuFp8, CopiesAreCodesAndMaximumsAreMeasured) {
  const OpInfo& op = op_info("quantize_fp8");
  for (const DType dtype : {DType::f32, DType::bf16}) {
    OpCase c{&op, Attrs(std::in_place_index<op_id<QuantizeFp8>>), {}, 0};
    c.specs.set(QuantizeFp8::kX, {{97, 211}, dtype});
    c.specs.set(QuantizeFp8::kScaling, {{2, kFp8Roles}, DType::f32});
    op.infer(c.attrs, c.specs);
    OpInputs in = random_inputs(c, 9);
    std::vector<double>& x = in.value[QuantizeFp8::kX];
    x = to_numbers(to_bytes(x, dtype), dtype);
    x[12345] = -1.75;
    x[17] = std::numeric_limits<double>::quiet_NaN();
    in.value[QuantizeFp8::kScaling] = {300, 5, 6, 0.5, 8, 9};
    for (const int threads : {1, 3}) {
      const OpResult r = run_op(cpu_kernels(), c, in, {.threads = threads, .backward = false});
      EXPECT_EQ(to_numbers(r.value[QuantizeFp8::kScaling], DType::f32), (std::vector<double>{300, 5, 6, 1.75, 8, 9}));
      const auto* codes = reinterpret_cast<const F8E4M3*>(r.value[QuantizeFp8::kY].data());
      for (std::size_t i = 0; i < x.size(); ++i) {
        const F8E4M3 expected(static_cast<float>(x[i]) * 300.0F);
        ASSERT_EQ(codes[i].bits & (i == 17 ? 0x7FU : 0xFFU), expected.bits & (i == 17 ? 0x7FU : 0xFFU)) << i;
      }
      EXPECT_EQ(codes[12345].bits, 0xFEU) << "saturates";
    }
    // A larger one from before stays.
    in.value[QuantizeFp8::kScaling][3] = 4;
    EXPECT_EQ(to_numbers(run_op(cpu_kernels(), c, in, {.backward = false}).value[QuantizeFp8::kScaling], DType::f32)[3],
              4.0);
  }
}

TEST(CpuFp8, UpdateMovesEveryTensor) {
  const OpInfo& op = op_info("update_fp8_scales");
  OpCase c = op_cases(op, DType::f32).front();
  OpInputs in = random_inputs(c, 3);
  for (auto& numbers : in.value)
    for (double& x : numbers) x = std::fabs(x);
  const OpResult r = run_op(cpu_kernels(), c, in, {.backward = false, .phase = Phase::Update});
  const std::vector<double> scaling = to_numbers(r.value[UpdateFp8Scales::kScaling], DType::f32),
                            history = to_numbers(r.value[UpdateFp8Scales::kHistory], DType::f32);
  const std::vector<double>&old = in.value[UpdateFp8Scales::kScaling], &before = in.value[UpdateFp8Scales::kHistory];
  for (std::size_t linear = 0; linear < 5; ++linear) {
    for (std::size_t role = 0; role < kFp8Roles; ++role) {
      const std::size_t row = (linear * kFp8Roles + role) * kFp8History, at = linear * 2 * kFp8Roles + role;
      double most = old[at + kFp8Roles];
      EXPECT_EQ(history[row], most);
      for (std::size_t i = 1; i < kFp8History; ++i) {
        EXPECT_EQ(history[row + i], before[row + i - 1]);
        most = std::max(most, before[row + i - 1]);
      }
      EXPECT_EQ(scaling[at], fp8_most(static_cast<Fp8Role>(role)) / static_cast<float>(most));
      EXPECT_EQ(scaling[at + kFp8Roles], 0.0);
    }
  }
}

}  // namespace
}  // namespace plimsoll
