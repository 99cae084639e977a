#include <algorithm>

#include "runtime/ops/attention.hpp"

#include "tests/kernels/attention_reference.hpp"
#include "tests/kernels/kernel_runner.hpp"

namespace plimsoll {
namespace {

struct Case {
  HeadLayout layout;
  std::int64_t batch, length;
  double dropout = 0;
  int segments = 0;  // number of them; 0: no segment ids
};

template <class T>
KernelRunner<Attention, T> make_runner(const Case& c) {
  const Attention::Attrs attrs{c.layout, 1 / std::sqrt(c.layout.head_dim), c.dropout, stream_id("site")};
  const SampleSlot qkv{Attention::kQkv, {c.batch, c.length, c.layout.packed_width()}};
  const SampleSlot segments{Attention::kSegments, {c.batch, c.length}, DType::i32};
  auto r =
      c.segments == 0 ? KernelRunner<Attention, T>(attrs, {qkv}) : KernelRunner<Attention, T>(attrs, {qkv, segments});
  r.fill_value(Attention::kQkv, 1);
  r.fill_grad(Attention::kOut, 2);
  for (std::int64_t i = 0; c.segments > 0 && i < c.batch * c.length; ++i) {
    r.template value<std::int32_t>(Attention::kSegments)[i] =
        static_cast<std::int32_t>((i % c.length) * c.segments / c.length);
  }
  r.inputs.seed = 77;
  r.inputs.first_sample = 5;
  return r;
}

template <class T>
void expect_near(const T* got, const std::vector<double>& expected, double tolerance, const char* what) {
  double worst = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double error = std::abs(static_cast<double>(got[i]) - expected[i]);
    if (!(error <= worst)) worst = error;
  }
  EXPECT_LE(worst, tolerance) << what;
}

template <class T>
void check(const Case& c, double tolerance) {
  SCOPED_TRACE(fmt::format("heads {}/{} of {}, B {}, T {}, dropout {}, segments {}", c.layout.heads, c.layout.kv_heads,
                           c.layout.head_dim, c.batch, c.length, c.dropout, c.segments));
  auto r = make_runner<T>(c);
  r.threads = static_cast<int>(c.batch);
  r.run(Phase::Forward);
  r.run(Phase::InputGrad);
  ReferenceAttention reference;
  reference.attributes = {c.layout, 1 / std::sqrt(c.layout.head_dim), c.dropout, stream_id("site")};
  reference.inputs = r.inputs;
  reference.batch = c.batch;
  reference.length = c.length;
  const auto qkv = r.values_of(Attention::kQkv), dout = r.grads_of(Attention::kOut);
  reference.qkv.assign(qkv.begin(), qkv.end());
  reference.out_gradient.assign(dout.begin(), dout.end());
  if (c.segments > 0) {
    const auto* ids = r.template value<std::int32_t>(Attention::kSegments);
    reference.segments.assign(ids, ids + c.batch * c.length);
  }
  reference.run();
  expect_near(r.value(Attention::kOut), reference.out, tolerance, "out");
  expect_near(r.value(Attention::kLse), reference.lse, tolerance, "lse");
  expect_near(r.grad(Attention::kQkv), reference.gradient, 10 * tolerance, "gradient");
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const int head_dim : {1, 2, 3, 7, 8, 15, 16, 17, 33, 48, 64, 65, 80}) {
    for (const std::int64_t length : {1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 130}) {
      all.push_back({{1, 1, head_dim}, 1, length});
    }
  }
  all.push_back({{4, 2, 24}, 2, 70});
  all.push_back({{6, 1, 9}, 2, 33});
  all.push_back({{3, 3, 64}, 2, 130});
  all.push_back({{4, 2, 12}, 2, 99, 0, 3});
  all.push_back({{2, 2, 16}, 1, 130, 0, 130});
  all.push_back({{2, 1, 20}, 1, 130, 0, 2});
  all.push_back({{4, 2, 10}, 2, 67, 0.3});
  all.push_back({{2, 2, 64}, 1, 130, 0.1, 4});
  return all;
}

TEST(AttentionKernel, AgreesWithItsDefinitionInDouble) {
  for (const Case& c : cases()) check<double>(c, 1e-12);
}

TEST(AttentionKernel, AgreesWithItsDefinitionInFloat) {
  for (const Case& c : cases()) check<float>(c, 4e-6);
}

TEST(AttentionKernel, BitsDoNotDependOnThreads) {
  for (const Case& c : {Case{{6, 3, 20}, 2, 130}, Case{{4, 4, 64}, 3, 70, 0.2, 2}}) {
    std::vector<float> out, gradient;
    for (const int threads : {1, 2, 3}) {
      auto r = make_runner<float>(c);
      r.threads = threads;
      r.run(Phase::Forward);
      r.run(Phase::InputGrad);
      if (threads == 1) {
        out = r.values_of(Attention::kOut);
        gradient = r.grads_of(Attention::kQkv);
      }
      EXPECT_EQ(out, r.values_of(Attention::kOut)) << threads;
      EXPECT_EQ(gradient, r.grads_of(Attention::kQkv)) << threads;
    }
  }
}

TEST(AttentionKernel, LaterTokensLeaveNoTrace) {
  auto r = make_runner<float>({{2, 2, 16}, 1, 100});
  r.run(Phase::Forward);
  const auto before = r.values_of(Attention::kOut);
  const std::size_t kept = 77, width = 3 * 2 * 16;
  for (std::size_t i = kept * width; i < 100 * width; ++i) r.value(Attention::kQkv)[i] *= -30;
  r.run(Phase::Forward);
  for (std::size_t i = 0; i < kept * 32; ++i) ASSERT_EQ(before[i], r.value(Attention::kOut)[i]);
}

TEST(AttentionKernel, LargeScoresStayFinite) {
  auto r = make_runner<float>({{1, 1, 16}, 1, 80});
  for (std::size_t i = 0; i < r.elements(Attention::kQkv); ++i) r.value(Attention::kQkv)[i] *= 50;
  r.run(Phase::Forward);
  r.run(Phase::InputGrad);
  for (const float x : r.values_of(Attention::kOut)) ASSERT_TRUE(std::isfinite(x));
  for (const float x : r.grads_of(Attention::kQkv)) ASSERT_TRUE(std::isfinite(x));
}

TEST(AttentionKernel, GradientIsAddedOrZeroWhenAsked) {
  auto r = make_runner<double>({{2, 1, 5}, 1, 20});
  r.run(Phase::Forward);
  r.run(Phase::InputGrad);
  const auto once = r.grads_of(Attention::kQkv);
  r.accumulate = 1U << Attention::kQkv;
  r.run(Phase::InputGrad);
  for (std::size_t i = 0; i < once.size(); ++i) ASSERT_DOUBLE_EQ(r.grad(Attention::kQkv)[i], 2 * once[i]);
  r.drop_grad(Attention::kOut);
  r.run(Phase::InputGrad);
  for (std::size_t i = 0; i < once.size(); ++i) ASSERT_DOUBLE_EQ(r.grad(Attention::kQkv)[i], 2 * once[i]);
  r.accumulate = 0;
  r.run(Phase::InputGrad);
  for (const double x : r.grads_of(Attention::kQkv)) ASSERT_EQ(x, 0);
}

// With all values 1, an output element is the share of probability that was kept, over 1 - p: 1 on average.
TEST(AttentionDropout, KeepsTheMeanAndFollowsTheSampleIndex) {
  const Case c{{4, 4, 8}, 2, 128, 0.25};
  auto r = make_runner<float>(c);
  const std::size_t width = 96;
  for (std::size_t i = 0; i < r.elements(Attention::kQkv); ++i) {
    r.value(Attention::kQkv)[i] = i % width < 2 * width / 3 ? 0.0F : 1.0F;
  }
  r.run(Phase::Forward);
  const auto out = r.values_of(Attention::kOut);
  double sum = 0;
  for (const float x : out) sum += x;
  EXPECT_NEAR(sum / static_cast<double>(out.size()), 1, 0.03);
  r.inputs.first_sample += 1;  // row 0 is now what row 1 was
  r.run(Phase::Forward);
  const std::size_t half = out.size() / 2;
  EXPECT_TRUE(std::equal(out.begin() + static_cast<std::ptrdiff_t>(half), out.end(), r.value(Attention::kOut)));
  EXPECT_FALSE(std::equal(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(half), r.value(Attention::kOut)));
}

TEST(AttentionDropout, BackwardReplaysForward) {
  auto r = make_runner<double>({{2, 1, 6}, 2, 19, 0.3});
  r.run(Phase::Forward);
  r.run(Phase::InputGrad);
  const auto gradient = r.grads_of(Attention::kQkv), weight = r.grads_of(Attention::kOut);
  const auto objective = [&] {
    r.run(Phase::Forward);
    double sum = 0;
    for (std::size_t i = 0; i < weight.size(); ++i) sum += weight[i] * r.value(Attention::kOut)[i];
    return sum;
  };
  for (std::size_t i = 0; i < gradient.size(); i += 17) {
    double& x = r.value(Attention::kQkv)[i];
    const double at = x, step = 1e-5;
    x = at + step;
    const double above = objective();
    x = at - step;
    const double below = objective();
    x = at;
    EXPECT_NEAR(gradient[i], (above - below) / (2 * step), 1e-8) << i;
  }
}

// Feeds a sequence to the cache in the given pieces; returns the outputs of all tokens.
template <class T>
std::vector<T> cached_outputs(const Case& c, const std::vector<T>& qkv, const std::vector<std::int64_t>& pieces) {
  using Op = CachedAttention;
  const std::int64_t positions = c.length + 5, width = c.layout.packed_width(), out_width = c.layout.output_width();
  const std::int64_t cache_width = std::int64_t{c.layout.kv_heads} * c.layout.head_dim;
  std::vector<T> keys(static_cast<std::size_t>(c.batch * positions * cache_width), T(NAN)), values = keys;
  std::vector<T> out(static_cast<std::size_t>(c.batch * c.length * out_width));
  std::int64_t position = 0;
  for (const std::int64_t n : pieces) {
    const Shape cache{c.batch, positions, cache_width};
    KernelRunner<Op, T> r({c.layout, 1 / std::sqrt(c.layout.head_dim)},
                          {{Op::kQkv, {c.batch, n, width}}, {Op::kKeys, cache}, {Op::kValues, cache}});
    std::copy(keys.begin(), keys.end(), r.value(Op::kKeys));
    std::copy(values.begin(), values.end(), r.value(Op::kValues));
    for (std::int64_t b = 0; b < c.batch; ++b) {
      std::copy_n(qkv.begin() + (b * c.length + position) * width, n * width, r.value(Op::kQkv) + b * n * width);
    }
    r.inputs.position = position;
    r.threads = n > 1 ? 2 : 1;
    r.run(Phase::Forward);
    keys = r.values_of(Op::kKeys);
    values = r.values_of(Op::kValues);
    for (std::int64_t b = 0; b < c.batch; ++b) {
      std::copy_n(r.value(Op::kOut) + b * n * out_width, n * out_width,
                  out.begin() + (b * c.length + position) * out_width);
    }
    position += n;
  }
  return out;
}

TEST(CachedAttentionKernel, AnySplitEqualsTheWholeSequence) {
  for (const Case& c : {Case{{4, 2, 12}, 2, 150}, Case{{3, 3, 64}, 1, 129}, Case{{2, 1, 7}, 1, 66}}) {
    auto whole = make_runner<float>(c);
    whole.run(Phase::Forward);
    const auto expected = whole.values_of(Attention::kOut), qkv = whole.values_of(Attention::kQkv);
    std::vector<std::int64_t> ones(static_cast<std::size_t>(c.length), 1);
    for (const auto& pieces :
         {std::vector{c.length}, std::vector<std::int64_t>{1, c.length - 1},
          std::vector<std::int64_t>{30, 1, 1, c.length - 32}, std::vector<std::int64_t>{64, c.length - 64}, ones}) {
      const auto out = cached_outputs(c, qkv, pieces);
      for (std::size_t i = 0; i < out.size(); ++i)
        ASSERT_NEAR(out[i], expected[i], 1e-6) << pieces.size() << " at " << i;
    }
  }
}

TEST(CachedAttentionKernel, AFullCacheIsAnError) {
  using Op = CachedAttention;
  KernelRunner<Op, float> r({{1, 1, 4}, 1}, {{Op::kQkv, {1, 2, 12}}, {Op::kKeys, {1, 6, 4}}, {Op::kValues, {1, 6, 4}}});
  r.inputs.position = 5;
  EXPECT_THROW(r.run(Phase::Forward), Error);
}

TEST(AttentionOp, RejectsWhatDoesNotFit) {
  SlotSpecs s;
  s.set(Attention::kQkv, {{2, 3, 20}, DType::f32});
  EXPECT_THROW(Attention::infer({{2, 1, 4}}, s), Error);  // 16 wide
  EXPECT_THROW(Attention::infer({{3, 2, 4}}, s), Error);  // groups of unequal size
  EXPECT_NO_THROW(Attention::infer({{3, 1, 4}}, s));
  EXPECT_THROW(Attention::infer({{3, 1, 4}, 1, 1.0}, s), Error);
}

}  // namespace
}  // namespace plimsoll
