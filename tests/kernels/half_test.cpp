// The kernels of bf16 and f16, on every sample of every declaration: the numbers of the fp64 kernels from the same
// rounded inputs; where nothing but the result is rounded, the very numbers of the f32 kernels, rounded once.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "kernels/cpu/register.hpp"
#include "launch/allocation_counter.hpp"
#include "tests/support/op_harness.hpp"

namespace plimsoll {
namespace {

using namespace test;

constexpr DType kHalves[] = {DType::bf16, DType::f16};

double unit_of(DType dtype) {
  switch (dtype) {
    case DType::bf16: return 0x1p-8;
    case DType::f16: return 0x1p-11;
    case DType::f32: return 0x1p-24;
    default: return 0x1p-53;
  }
}

// Inputs that `c` stores as they are.
OpInputs exact_inputs(const OpCase& c, std::uint64_t seed) {
  OpInputs in = random_inputs(c, seed);
  for (int s = 0; s < c.slots(); ++s) {
    if (!c.specs.has(s)) continue;
    const auto at = static_cast<std::size_t>(s);
    const DType dtype = c.specs[s].dtype, gradient = gradient_spec(c.slot(s), c.specs[s]).dtype;
    const auto round = [](std::vector<double>& x, DType to) { x = to_numbers(to_bytes(x, to), to); };
    round(in.value[at], dtype);
    round(in.grad[at], gradient);
    round(in.previous[at], gradient);
  }
  return in;
}

// A sample with its arithmetic in `dtype`; samples whose dtypes the declaration fixes are left out.
struct Twins {
  OpCase half, wide;
};
std::vector<Twins> twins(const OpInfo& op, DType half, DType wide) {
  const std::vector<OpCase> halves = op_cases(op, half), wides = op_cases(op, wide);
  std::vector<Twins> all;
  for (std::size_t i = 0; i < halves.size(); ++i) {
    if (halves[i].dtype() == half && wides[i].dtype() == wide) all.push_back({halves[i], wides[i]});
  }
  return all;
}

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const OpInfo& op : all_ops()) {
    if (op.differentiable() && !op.collective) all.emplace_back(op.name);
  }
  return all;
}

class HalfKernels : public ::testing::TestWithParam<std::string> {
 protected:
  // Calls check(case, inputs) for every sample in bf16 and f16.
  template <class F>
  void for_samples(F&& check) {
    int checked = 0;
    for (const DType dtype : kHalves) {
      for (const OpCase& c : op_cases(op_, dtype)) {
        if (c.dtype() != dtype) continue;
        SCOPED_TRACE(c.text());
        check(c, exact_inputs(c, 1));
        ++checked;
      }
    }
    EXPECT_GT(checked, 0);
  }
  static void expect_same(const OpCase& c, const OpResult& a, const OpResult& b) {
    for (int s = 0; s < c.slots(); ++s) {
      const auto at = static_cast<std::size_t>(s);
      EXPECT_TRUE(a.value[at] == b.value[at]) << "value of " << c.slot(s).name;
      EXPECT_TRUE(a.grad[at] == b.grad[at]) << "gradient of " << c.slot(s).name;
    }
  }

  const OpInfo& op_ = op_info(GetParam());
  const KernelTable kernels_ = cpu_kernels();
};

// A few roundings: of values between two steps of an op (a norm's sum, a linear's pre-activation, logits), and of the
// result. |a - b| ≤ roundings · unit · max(1, largest |b|).
TEST_P(HalfKernels, AgreeWithDoublePrecision) {
  constexpr double kRoundings = 3;
  for (const DType half : kHalves) {
    for (const auto& [h, d] : twins(op_, half, DType::f64)) {
      SCOPED_TRACE(h.text());
      const OpInputs in = exact_inputs(h, 1);
      for (const bool accumulate : {false, true}) {
        const OpRun how{.accumulate = accumulate};
        const OpResult rounded = run_op(kernels_, h, in, how), exact = run_op(kernels_, d, in, how);
        for (int s = 0; s < h.slots(); ++s) {
          if (!h.specs.has(s)) continue;
          const auto at = static_cast<std::size_t>(s);
          const auto compare = [&](const std::vector<std::byte>& a, DType a_type, const std::vector<std::byte>& b,
                                   DType b_type, std::string_view what) {
            const std::vector<double> x = to_numbers(a, a_type), y = to_numbers(b, b_type);
            ASSERT_EQ(x.size(), y.size());
            double scale = 1;
            for (const double n : y) scale = std::max(scale, std::fabs(n));
            for (std::size_t i = 0; i < x.size(); ++i) {
              ASSERT_NEAR(x[i], y[i], kRoundings * unit_of(half) * scale) << what << h.slot(s).name << " at " << i;
            }
          };
          compare(rounded.value[at], h.specs[s].dtype, exact.value[at], d.specs[s].dtype, "");
          compare(rounded.grad[at], gradient_spec(h.slot(s), h.specs[s]).dtype, exact.grad[at], d.specs[s].dtype,
                  "gradient of ");
        }
      }
    }
  }
}

// Arithmetic is that of f32 but for the order of sums: every number is the f32 kernel's, rounded once where it is
// stored.
TEST_P(HalfKernels, RoundOnce) {
  const std::set<std::string_view> stores_between{"add_layer_norm", "add_rms_norm", "cross_entropy"};
  if (stores_between.contains(op_.name)) GTEST_SKIP() << "rounds a sum or logits first";
  for (const DType half : kHalves) {
    for (const auto& [h, f] : twins(op_, half, DType::f32)) {
      if (h.op->id == op_id<Linear> && h.specs.has(Linear::kPre)) continue;
      SCOPED_TRACE(h.text());
      const OpInputs in = exact_inputs(h, 2);
      for (const bool accumulate : {false, true}) {
        const bool backward = op_.id != op_id<Attention>;  // that reads the rounded output
        const OpRun how{.accumulate = accumulate, .backward = backward};
        const OpResult rounded = run_op(kernels_, h, in, how), single = run_op(kernels_, f, in, how);
        for (int s = 0; s < h.slots(); ++s) {
          if (!h.specs.has(s)) continue;
          const auto at = static_cast<std::size_t>(s);
          const auto compare = [&](const std::vector<std::byte>& a, DType dtype, const std::vector<std::byte>& b,
                                   std::string_view what) {
            const std::vector<double> x = to_numbers(a, dtype), y = to_numbers(b, f.specs[s].dtype);
            ASSERT_EQ(x.size(), y.size());
            double scale = 1;
            for (const double n : y) scale = std::max(scale, std::fabs(n));
            for (std::size_t i = 0; i < x.size(); ++i) {
              ASSERT_NEAR(x[i], y[i], 1.001 * unit_of(dtype) * std::fabs(y[i]) + 1e-6 * scale)
                  << what << h.slot(s).name << " at " << i;
            }
          };
          compare(rounded.value[at], h.specs[s].dtype, single.value[at], "");
          compare(rounded.grad[at], gradient_spec(h.slot(s), h.specs[s]).dtype, single.grad[at], "gradient of ");
        }
      }
    }
  }
}

TEST_P(HalfKernels, BitsDoNotDependOnThreads) {
  for_samples([&](const OpCase& c, const OpInputs& in) {
    const OpResult one = run_op(kernels_, c, in, {});
    for (const int threads : {2, 3}) expect_same(c, run_op(kernels_, c, in, {.threads = threads}), one);
  });
}

TEST_P(HalfKernels, InPlaceGivesTheSameBits) {
  for_samples([&](const OpCase& c, const OpInputs& in) {
    expect_same(c, run_op(kernels_, c, in, {.threads = 2, .in_place = true}), run_op(kernels_, c, in, {}));
  });
}

TEST_P(HalfKernels, ReadWhatIsDeclaredAndWriteEverything) {
  for_samples([&](const OpCase& c, const OpInputs& in) {
    const OpResult r = run_op(kernels_, c, in, {.poison = true});
    expect_same(c, r, run_op(kernels_, c, in, {}));
    for (int s = 0; s < c.slots(); ++s) {
      const auto at = static_cast<std::size_t>(s);
      const auto written = [](const std::vector<std::byte>& bytes, DType dtype) {
        const std::vector<double> x = to_numbers(bytes, dtype);
        return std::none_of(x.begin(), x.end(), [](double number) { return std::isnan(number); });
      };
      if (!c.specs.has(s)) continue;
      EXPECT_TRUE(written(r.value[at], c.specs[s].dtype)) << c.slot(s).name;
      EXPECT_TRUE(written(r.grad[at], gradient_spec(c.slot(s), c.specs[s]).dtype)) << c.slot(s).name;
    }
  });
}

TEST_P(HalfKernels, MissingGradientsAreZeroAndUnwantedOnesLeftOut) {
  for_samples([&](const OpCase& c, const OpInputs& in) {
    const OpResult all = run_op(kernels_, c, in, {});
    for (int s = 0; s < c.slots(); ++s) {
      const auto at = static_cast<std::size_t>(s);
      if (gradient_goes_out(c, s)) {
        OpResult expected = all;
        expected.grad[at].clear();
        expect_same(c, run_op(kernels_, c, in, {.without_grad = 1U << s}), expected);
      }
      if (c.op->terminal || !c.specs.has(s) || c.slot(s).role != Role::Output) continue;
      OpInputs zero = in;
      std::fill(zero.grad[at].begin(), zero.grad[at].end(), 0.0);
      const OpResult missing = run_op(kernels_, c, in, {.without_grad = 1U << s});
      const OpResult given = run_op(kernels_, c, zero, {});
      for (int g = 0; g < c.slots(); ++g) {
        if (!c.specs.has(g)) continue;
        const DType dtype = gradient_spec(c.slot(g), c.specs[g]).dtype;
        EXPECT_EQ(to_numbers(missing.grad[static_cast<std::size_t>(g)], dtype),
                  to_numbers(given.grad[static_cast<std::size_t>(g)], dtype))
            << "gradient of " << c.slot(g).name << " without that of " << c.slot(s).name;
      }
    }
  });
}

// After the first call, in which threads get their buffers and libraries generate kernels.
TEST_P(HalfKernels, AllocateNothingASecondTime) {
  for_samples([&](const OpCase& c, const OpInputs& in) {
    for (const int threads : {1, 2}) {
      run_op(kernels_, c, in, {.threads = threads});
      AllocationCounter::start();
      run_op(kernels_, c, in, {.threads = threads});
      EXPECT_EQ(AllocationCounter::count(), 0) << threads << " threads";
    }
  });
}

// What a declaration offers for outputs that are needed a second time makes the bits of the first.
TEST(HalfKernelsAgain, ActivationsOfWhatALinearKept) {
  const KernelTable kernels = cpu_kernels();
  const OpInfo &linear = op_info(Linear::name), &activate = op_info(Activate::name);
  int checked = 0;
  for (const DType half : kHalves) {
    for (const OpCase& c : op_cases(linear, half)) {
      if (!c.specs.has(Linear::kPre)) continue;
      SCOPED_TRACE(c.text());
      const OpResult once = run_op(kernels, c, exact_inputs(c, 1), {.backward = false});
      OpCase again{&activate, linear.again(c.attrs), {}, 0};
      again.specs.set(Activate::kX, c.specs[Linear::kPre]);
      again.specs.set(Activate::kY, c.specs[Linear::kY]);
      OpInputs in;
      in.value[Activate::kX] = to_numbers(once.value[Linear::kPre], half);
      EXPECT_EQ(run_op(kernels, again, in, {.backward = false}).value[Activate::kY], once.value[Linear::kY]);
      ++checked;
    }
  }
  EXPECT_GT(checked, 0);
}

INSTANTIATE_TEST_SUITE_P(Cpu, HalfKernels, ::testing::ValuesIn(names()),
                         [](const ::testing::TestParamInfo<std::string>& p) { return p.param; });

}  // namespace
}  // namespace plimsoll
