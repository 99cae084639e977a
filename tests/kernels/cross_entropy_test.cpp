#include "runtime/ops/cross_entropy.hpp"

#include <cmath>

#include "tests/kernels/kernel_runner.hpp"

namespace plimsoll {
namespace {

using Op = CrossEntropy;

constexpr std::int64_t kBatch = 2, kLength = 7, kHidden = 9;

template <class T>
KernelRunner<Op, T> make_runner(std::int64_t vocabulary, std::int64_t chunk_rows) {
  KernelRunner<Op, T> r({chunk_rows}, {{Op::kX, {kBatch, kLength, kHidden}},
                                       {Op::kWeight, {vocabulary, kHidden}},
                                       {Op::kTargets, {kBatch, kLength}, DType::i32}});
  r.fill_value(Op::kX, 1);
  r.fill_value(Op::kWeight, 2);
  for (std::int64_t i = 0; i < kBatch * kLength; ++i) {
    r.template value<std::int32_t>(Op::kTargets)[i] = static_cast<std::int32_t>(i % 5 == 3 ? -1 : (i * 7) % vocabulary);
  }
  r.inputs.loss_seed = 0.125;
  return r;
}

struct Expected {
  double loss = 0, count = 0;
  std::vector<double> dx, dw;
};

template <class T>
Expected by_definition(KernelRunner<Op, T>& r, std::int64_t vocabulary) {
  Expected e;
  e.dx.assign(r.elements(Op::kX), 0);
  e.dw.assign(r.elements(Op::kWeight), 0);
  const auto v = static_cast<std::size_t>(vocabulary), h = static_cast<std::size_t>(kHidden);
  const T *x = r.value(Op::kX), *w = r.value(Op::kWeight);
  for (std::size_t row = 0; row < kBatch * kLength; ++row) {
    const auto target = r.template value<std::int32_t>(Op::kTargets)[row];
    if (target < 0) continue;
    std::vector<double> p(v);
    double sum = 0;
    for (std::size_t j = 0; j < v; ++j) {
      for (std::size_t d = 0; d < h; ++d)
        p[j] += static_cast<double>(x[row * h + d]) * static_cast<double>(w[j * h + d]);
      sum += p[j] = std::exp(p[j]);
    }
    e.loss -= std::log(p[static_cast<std::size_t>(target)] / sum);
    e.count += 1;
    for (std::size_t j = 0; j < v; ++j) {
      const double g = (p[j] / sum - (j == static_cast<std::size_t>(target) ? 1 : 0)) * r.inputs.loss_seed;
      for (std::size_t d = 0; d < h; ++d) {
        e.dx[row * h + d] += g * static_cast<double>(w[j * h + d]);
        e.dw[j * h + d] += g * static_cast<double>(x[row * h + d]);
      }
    }
  }
  return e;
}

template <class T>
void check(std::int64_t vocabulary, std::int64_t chunk_rows, double tolerance) {
  SCOPED_TRACE(fmt::format("vocabulary {}, chunks of {}", vocabulary, chunk_rows));
  auto r = make_runner<T>(vocabulary, chunk_rows);
  const Expected e = by_definition(r, vocabulary);
  for (const Phase phase : {Phase::Forward, Phase::InputGrad}) {
    r.template value<double>(Op::kLoss)[0] = NAN;
    r.run(phase);
    EXPECT_NEAR(r.template value<double>(Op::kLoss)[0], e.loss, tolerance * e.count) << phase_name(phase);
    EXPECT_EQ(r.template value<double>(Op::kLoss)[1], e.count);
  }
  for (std::size_t i = 0; i < e.dx.size(); ++i) ASSERT_NEAR(r.grad(Op::kX)[i], e.dx[i], tolerance);
  for (std::size_t i = 0; i < e.dw.size(); ++i) ASSERT_NEAR(r.grad(Op::kWeight)[i], e.dw[i], tolerance);
}

TEST(CrossEntropyKernel, AgreesWithItsDefinition) {
  for (const std::int64_t vocabulary : {1, 2, 15, 16, 33, 1500}) {
    for (const std::int64_t chunk : {0, 1, 4, 7, 14, 100}) {
      check<double>(vocabulary, chunk, 1e-12);
      check<float>(vocabulary, chunk, 4e-6);
    }
  }
}

TEST(CrossEntropyKernel, ChunksDoNotChangeTheLoss) {
  auto whole = make_runner<double>(700, 0);
  whole.run(Phase::InputGrad);
  for (const std::int64_t chunk : {1, 3, 13}) {
    auto r = make_runner<double>(700, chunk);
    r.run(Phase::InputGrad);
    EXPECT_NEAR(r.value<double>(Op::kLoss)[0], whole.value<double>(Op::kLoss)[0], 1e-12);
    for (std::size_t i = 0; i < r.elements(Op::kWeight); ++i) {
      ASSERT_NEAR(r.grad(Op::kWeight)[i], whole.grad(Op::kWeight)[i], 1e-12);
    }
    for (std::size_t i = 0; i < r.elements(Op::kX); ++i) ASSERT_NEAR(r.grad(Op::kX)[i], whole.grad(Op::kX)[i], 1e-12);
  }
}

TEST(CrossEntropyKernel, IgnoredRowsCountForNothing) {
  auto r = make_runner<float>(50, 4);
  std::fill_n(r.value<std::int32_t>(Op::kTargets), kBatch * kLength, -1);
  r.run(Phase::InputGrad);
  EXPECT_EQ(r.value<double>(Op::kLoss)[0], 0);
  EXPECT_EQ(r.value<double>(Op::kLoss)[1], 0);
  for (const float g : r.grads_of(Op::kX)) ASSERT_EQ(g, 0);
  for (const float g : r.grads_of(Op::kWeight)) ASSERT_EQ(g, 0);
}

TEST(CrossEntropyKernel, AddsWhereAsked) {
  auto r = make_runner<double>(50, 4);
  r.run(Phase::InputGrad);
  const double loss = r.value<double>(Op::kLoss)[0], count = r.value<double>(Op::kLoss)[1];
  const auto dx = r.grads_of(Op::kX), dw = r.grads_of(Op::kWeight);
  r.accumulate = 1U << Op::kWeight | 1U << Op::kLoss;
  r.run(Phase::InputGrad);
  EXPECT_DOUBLE_EQ(r.value<double>(Op::kLoss)[0], 2 * loss);
  EXPECT_EQ(r.value<double>(Op::kLoss)[1], 2 * count);
  EXPECT_EQ(r.grads_of(Op::kX), dx);
  for (std::size_t i = 0; i < dw.size(); ++i) ASSERT_NEAR(r.grad(Op::kWeight)[i], 2 * dw[i], 1e-14);
  r.accumulate = 1U << Op::kX;
  r.drop_grad(Op::kWeight);
  r.run(Phase::InputGrad);
  EXPECT_DOUBLE_EQ(r.value<double>(Op::kLoss)[0], loss);
  for (std::size_t i = 0; i < dx.size(); ++i) ASSERT_NEAR(r.grad(Op::kX)[i], 2 * dx[i], 1e-14);
}

TEST(CrossEntropyKernel, BitsDoNotDependOnThreads) {
  std::vector<float> dx, dw;
  double loss = 0;
  for (const int threads : {1, 2, 3}) {
    auto r = make_runner<float>(333, 5);
    r.threads = threads;
    r.run(Phase::InputGrad);
    if (threads == 1) dx = r.grads_of(Op::kX), dw = r.grads_of(Op::kWeight), loss = r.value<double>(Op::kLoss)[0];
    EXPECT_EQ(dx, r.grads_of(Op::kX)) << threads;
    EXPECT_EQ(dw, r.grads_of(Op::kWeight)) << threads;
    EXPECT_EQ(loss, r.value<double>(Op::kLoss)[0]) << threads;
  }
}

TEST(CrossEntropyKernel, ExtremeLogitsStayFinite) {
  auto r = make_runner<float>(64, 0);
  for (std::size_t i = 0; i < r.elements(Op::kX); ++i) r.value(Op::kX)[i] *= 1e4F;
  r.run(Phase::InputGrad);
  EXPECT_TRUE(std::isfinite(r.value<double>(Op::kLoss)[0]));
  for (const float g : r.grads_of(Op::kWeight)) ASSERT_TRUE(std::isfinite(g));
}

}  // namespace
}  // namespace plimsoll
