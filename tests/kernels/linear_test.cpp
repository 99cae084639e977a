#include "runtime/ops/linear.hpp"

#include <cmath>
#include <numbers>

#include "kernels/cpu/register.hpp"
#include "tests/kernels/kernel_runner.hpp"
#include "tests/support/op_harness.hpp"

namespace plimsoll {
namespace {

using Op = Linear;

struct Case {
  bool in_out, bias;
  Activation activation;
  std::int64_t rows, in, out;
};

template <class T>
KernelRunner<Op, T> make_runner(const Case& c) {
  const Shape weight = c.in_out ? Shape{c.in, c.out} : Shape{c.out, c.in};
  const Op::Attrs attrs{c.in_out, c.activation};
  auto r = c.bias
               ? KernelRunner<Op, T>(attrs, {{Op::kX, {1, c.rows, c.in}}, {Op::kWeight, weight}, {Op::kBias, {c.out}}})
               : KernelRunner<Op, T>(attrs, {{Op::kX, {1, c.rows, c.in}}, {Op::kWeight, weight}});
  r.fill_value(Op::kX, 1);
  r.fill_value(Op::kWeight, 2, 0.3);
  if (c.bias) r.fill_value(Op::kBias, 3);
  r.fill_grad(Op::kY, 4);
  return r;
}

double activated(Activation kind, double x) {
  switch (kind) {
    case Activation::None: return x;
    case Activation::GeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Activation::GeluErf: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::Silu: return x / (1 + std::exp(-x));
    case Activation::Relu: return x > 0 ? x : 0;
  }
  return 0;
}

double slope(Activation kind, double x) {
  if (kind == Activation::None) return 1;
  if (kind == Activation::Relu) return x > 0 ? 1 : 0;
  return (activated(kind, x + 1e-6) - activated(kind, x - 1e-6)) / 2e-6;
}

template <class T>
void check(const Case& c, double tolerance) {
  SCOPED_TRACE(fmt::format("{}x{}x{} in_out {} bias {} activation {}", c.rows, c.in, c.out, c.in_out, c.bias,
                           static_cast<int>(c.activation)));
  auto r = make_runner<T>(c);
  r.threads = 2;
  r.run(Phase::Forward);
  const auto dy = r.grads_of(Op::kY);
  r.run(Phase::InputGrad);
  r.run(Phase::WeightGrad);
  const auto weight_at = [&](std::int64_t o, std::int64_t i) { return c.in_out ? i * c.out + o : o * c.in + i; };
  std::vector<double> dx(r.elements(Op::kX)), dw(r.elements(Op::kWeight)), db(static_cast<std::size_t>(c.out));
  for (std::int64_t n = 0; n < c.rows; ++n) {
    for (std::int64_t o = 0; o < c.out; ++o) {
      double pre = c.bias ? static_cast<double>(r.value(Op::kBias)[o]) : 0;
      for (std::int64_t i = 0; i < c.in; ++i) {
        pre += static_cast<double>(r.value(Op::kX)[n * c.in + i]) *
               static_cast<double>(r.value(Op::kWeight)[weight_at(o, i)]);
      }
      ASSERT_NEAR(r.value(Op::kY)[n * c.out + o], activated(c.activation, pre), tolerance);
      const double dpre = slope(c.activation, pre) * static_cast<double>(dy[static_cast<std::size_t>(n * c.out + o)]);
      db[static_cast<std::size_t>(o)] += dpre;
      for (std::int64_t i = 0; i < c.in; ++i) {
        const auto w = static_cast<std::size_t>(weight_at(o, i)), x = static_cast<std::size_t>(n * c.in + i);
        dx[x] += dpre * static_cast<double>(r.value(Op::kWeight)[w]);
        dw[w] += dpre * static_cast<double>(r.value(Op::kX)[x]);
      }
    }
  }
  const double loose = 10 * std::max(tolerance, c.activation == Activation::None ? 0 : 2e-9);
  for (std::size_t i = 0; i < dx.size(); ++i) ASSERT_NEAR(r.grad(Op::kX)[i], dx[i], loose);
  for (std::size_t i = 0; i < dw.size(); ++i) ASSERT_NEAR(r.grad(Op::kWeight)[i], dw[i], loose);
  for (std::size_t i = 0; c.bias && i < db.size(); ++i) ASSERT_NEAR(r.grad(Op::kBias)[i], db[i], loose);
}

TEST(LinearKernel, AgreesWithItsDefinition) {
  for (const auto kind :
       {Activation::None, Activation::GeluTanh, Activation::GeluErf, Activation::Silu, Activation::Relu}) {
    for (const bool in_out : {false, true}) {
      for (const bool bias : {false, true}) {
        for (const auto& [rows, in, out] :
             {std::array<std::int64_t, 3>{1, 1, 1}, {5, 7, 3}, {37, 16, 70}, {70, 33, 64}}) {
          const Case c{in_out, bias, kind, rows, in, out};
          check<double>(c, 1e-12);
          check<float>(c, 2e-5);
        }
      }
    }
  }
}

TEST(LinearKernel, GradientOfPreMayLieOverThatOfY) {
  const Case c{true, true, Activation::GeluTanh, 40, 24, 50};
  auto apart = make_runner<float>(c), shared = make_runner<float>(c);
  for (auto* r : {&apart, &shared}) {
    r->run(Phase::Forward);
    if (r == &shared) r->share_grad(Op::kPre, Op::kY);
    r->run(Phase::InputGrad);
    r->run(Phase::WeightGrad);
  }
  for (const int slot : {int{Op::kX}, int{Op::kWeight}, int{Op::kBias}}) {
    EXPECT_EQ(apart.grads_of(slot), shared.grads_of(slot)) << slot;
  }
}

TEST(LinearKernel, PreThatIsNotKeptChangesNoBit) {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
    for (const bool bias : {false, true}) {
      SlotSpecs specs;
      specs.set(Op::kX, {{1, 37, 33}, dtype});
      specs.set(Op::kWeight, {{33, 70}, dtype});
      if (bias) specs.set(Op::kBias, {{70}, dtype});
      std::vector<std::vector<std::byte>> y;
      for (const bool keeps : {true, false}) {
        test::OpCase c{&op_info("linear"), Attrs(std::in_place_type<Op::Attrs>, true, Activation::GeluTanh, keeps),
                       specs, 0};
        c.op->infer(c.attrs, c.specs);
        ASSERT_EQ(c.specs.has(Op::kPre), keeps);
        test::OpRun forward;
        forward.backward = false;
        y.push_back(run_op(cpu_kernels(), c, random_inputs(c, 3), forward).value[Op::kY]);
      }
      EXPECT_EQ(y[0], y[1]) << dtype_name(dtype);
    }
  }
}

TEST(LinearKernel, AddsWhereAsked) {
  const Case c{false, true, Activation::None, 40, 24, 50};
  auto r = make_runner<double>(c);
  r.run(Phase::InputGrad);
  r.run(Phase::WeightGrad);
  const std::array slots{int{Op::kX}, int{Op::kWeight}, int{Op::kBias}};
  std::vector<std::vector<double>> once;
  for (const int slot : slots) once.push_back(r.grads_of(slot)), r.accumulate |= 1U << slot;
  r.run(Phase::InputGrad);
  r.run(Phase::WeightGrad);
  for (std::size_t s = 0; s < slots.size(); ++s) {
    for (std::size_t i = 0; i < once[s].size(); ++i) ASSERT_NEAR(r.grad(slots[s])[i], 2 * once[s][i], 1e-13);
  }
}

TEST(LinearKernel, BitsDoNotDependOnThreads) {
  const Case c{true, true, Activation::GeluErf, 301, 64, 200};
  std::vector<std::vector<float>> first;
  for (const int threads : {1, 2, 3}) {
    auto r = make_runner<float>(c);
    r.threads = threads;
    r.run(Phase::Forward);
    r.run(Phase::InputGrad);
    r.run(Phase::WeightGrad);
    const std::vector all{r.values_of(Op::kY), r.grads_of(Op::kX), r.grads_of(Op::kWeight), r.grads_of(Op::kBias)};
    if (threads == 1) first = all;
    EXPECT_EQ(first, all) << threads;
  }
}

TEST(LinearOp, RejectsWhatDoesNotFit) {
  SlotSpecs s;
  s.set(Op::kX, {{2, 3, 4}, DType::f32});
  s.set(Op::kWeight, {{5, 4}, DType::f32});
  EXPECT_NO_THROW(Op::infer({}, s));
  EXPECT_FALSE(s.has(Op::kPre));
  EXPECT_THROW(Op::infer({true}, s), Error);
  s.set(Op::kBias, {{4}, DType::f32});
  EXPECT_THROW(Op::infer({}, s), Error);
}

}  // namespace
}  // namespace plimsoll
