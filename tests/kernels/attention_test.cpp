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
  r.threads = 2;
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

}  // namespace
}  // namespace plimsoll
