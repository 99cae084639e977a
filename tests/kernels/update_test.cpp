// Optimizer kernels against plain references written from PyTorch's documentation.

#include "runtime/ops/update.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/register.hpp"
#include "runtime/core/rng.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kElements = 20011;

template <class T>
std::vector<T> random_vector(std::string_view name, std::int64_t n = kElements) {
  const RandomStream stream(2, name);
  std::vector<T> v;
  for (std::int64_t i = 0; i < n; ++i) v.push_back(static_cast<T>(static_cast<float>(stream.normal(std::uint64_t(i)))));
  return v;
}

// Runs an update kernel on vectors given by slot; the norm is slot 1 of the optimizers.
struct Update {
  StepInputs in;
  StepOutputs out;
  int threads = 2;
  std::vector<std::byte> workspace;

  template <class Op, class T>
  void run(const typename Op::Attrs& attrs, const std::vector<View>& value, Phase phase = Phase::Update) {
    const Attrs any(std::in_place_index<op_id<Op>>, attrs);
    KernelArgs args;
    std::array<View, kMaxSlots> slots;
    std::copy(value.begin(), value.end(), slots.begin());
    args.value = slots.data();
    args.attributes = &any;
    args.threads = threads;
    args.inputs = &in;
    args.outputs = &out;
    args.workspace = workspace.data();
    static const KernelTable kernels = cpu_kernels();
    kernels.find(op_id<Op>, phase, dtype_of<T>())(args);
  }
};

template <class T>
View view(std::vector<T>& v) {
  return {v.data(), {{static_cast<std::int64_t>(v.size())}, dtype_of<T>()}};
}

template <class T>
void expect_near(const std::vector<T>& a, const std::vector<double>& b, double tolerance) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < b.size(); ++i) {
    ASSERT_NEAR(static_cast<double>(a[i]), b[i], tolerance * (1 + std::fabs(b[i]))) << i;
  }
}

// Across blocks of the kernels, and single elements.
const std::vector<ElementRange> kDecays{{0, 3}, {5, 1}, {7, 6000}, {6010, 991}, {7002, 1}};
bool decays(const std::vector<ElementRange>& ranges, std::size_t i) {
  const auto at = static_cast<std::int64_t>(i);
  return std::any_of(ranges.begin(), ranges.end(),
                     [&](const ElementRange& r) { return r.first <= at && at < r.first + r.count; });
}

template <class T>
void check_adamw(const AdamW::Attrs& a, double loss_scale, double tolerance) {
  auto p = random_vector<T>("p"), m = random_vector<T>("m"), v = random_vector<T>("v");
  for (T& x : v) x = x * x;
  std::vector<double> rp(p.begin(), p.end()), rm(m.begin(), m.end()), rv(v.begin(), v.end());
  std::vector<double> norm{3.5};
  Update update;
  update.in.loss_scale = static_cast<float>(loss_scale);
  for (int t = 1; t <= 3; ++t) {
    auto g = random_vector<T>(fmt::format("g{}", t));
    update.in.learning_rate = 0.01F * static_cast<float>(t);
    update.in.bias_correction1 = static_cast<float>(1 - std::pow(a.beta1, t));
    update.in.bias_correction2 = static_cast<float>(1 - std::pow(a.beta2, t));
    const double lr = update.in.learning_rate;
    const double clip = a.clip > 0 ? std::min(1.0, a.clip / (norm[0] + 1e-6)) : 1.0;
    for (std::size_t i = 0; i < g.size(); ++i) {
      const double gradient = static_cast<double>(g[i]) / loss_scale * clip;
      if (decays(a.decays, i)) rp[i] -= lr * a.weight_decay * rp[i];
      rm[i] = a.beta1 * rm[i] + (1 - a.beta1) * gradient;
      rv[i] = a.beta2 * rv[i] + (1 - a.beta2) * gradient * gradient;
      const double root = std::sqrt(rv[i]) / std::sqrt(static_cast<double>(update.in.bias_correction2));
      rp[i] -= lr / static_cast<double>(update.in.bias_correction1) * rm[i] / (root + a.eps);
    }
    update.run<AdamW, T>(a, {view(g), view(norm), view(p), view(m), view(v)});
  }
  expect_near(p, rp, tolerance);
  expect_near(m, rm, tolerance);
  expect_near(v, rv, tolerance);
}

TEST(AdamWKernel, FollowsTheReference) {
  const AdamW::Attrs plain{}, full{0.9, 0.95, 1e-8, 0.1, 1.0, kDecays};
  for (const double scale : {1.0, 1024.0}) {
    check_adamw<double>(plain, scale, 1e-12);
    check_adamw<double>(full, scale, 1e-12);
    check_adamw<float>(plain, scale, 2e-6);
    check_adamw<float>(full, scale, 2e-6);
  }
}

TEST(AdamWKernel, DoesNothingWhenTheNormIsNotFinite) {
  auto g = random_vector<float>("g"), p = random_vector<float>("p"), m = p, v = p;
  std::vector<double> norm{std::numeric_limits<double>::infinity()};
  const auto before = p;
  Update update;
  update.in.learning_rate = 1;
  update.out.found_inf = 1;
  update.run<AdamW, float>({}, {view(g), view(norm), view(p), view(m), view(v)});
  update.run<Sgd, float>({}, {view(g), view(norm), view(p), view(m)});
  EXPECT_EQ(p, before);
  EXPECT_EQ(m, before);
  EXPECT_EQ(v, before);
}

// All of one tensor, in its order.
RoundSegment whole_tensor(std::int64_t rows, std::int64_t columns, const char* name) {
  return {0, rows * columns, 0, columns, 0, 0, rows, columns, 0, 0, rows, columns, rounding_stream(name)};
}

std::vector<bf16> rounded(const std::vector<RoundSegment>& segments, std::vector<float>& weights,
                          std::uint64_t updates = 4, int threads = 2) {
  std::vector<bf16> to(weights.size());
  Update update;
  update.threads = threads;
  update.in.seed = 9;
  update.in.updates = updates;
  update.run<RoundWeights, float>({segments}, {view(weights), view(to)});
  return to;
}

std::vector<std::uint16_t> bits_of(const std::vector<bf16>& numbers) {
  std::vector<std::uint16_t> bits;
  for (const bf16 x : numbers) bits.push_back(x.bits);
  return bits;
}

// Up or down to a neighbour, as often as keeps the mean; what is a bf16 stays.
TEST(RoundWeightsKernel, IsRightInTheMean) {
  constexpr std::int64_t kCount = 200'000;
  for (const float part : {0.0F, 0.125F, 0.5F, 0.9F}) {
    for (const float sign : {1.0F, -1.0F}) {
      const float below = 1.5F, above = 1.5F + 0x1p-7F;
      std::vector<float> weights(kCount, sign * (below + part * (above - below)));
      const std::vector<bf16> to = rounded({whole_tensor(kCount / 100, 100, "w")}, weights);
      double ups = 0;
      for (const bf16 x : to) {
        const float found = sign * static_cast<float>(x);
        ASSERT_TRUE(found == below || found == above) << found;
        ups += found == above ? 1 : 0;
      }
      const double expected = static_cast<double>(part), deviation = std::sqrt(expected * (1 - expected) / kCount);
      EXPECT_NEAR(ups / kCount, expected, 4.5 * deviation + 1e-12);
    }
  }
  // The weights differ by less than a step of bf16, and their sums by less than chance.
  auto weights = random_vector<float>("w");
  double difference = 0, variance = 0;
  const std::vector<bf16> to = rounded({whole_tensor(1, kElements, "w")}, weights);
  for (std::size_t i = 0; i < to.size(); ++i) {
    const double x = weights[i], step = std::exp2(std::floor(std::log2(std::fabs(x))) - 7);
    const double error = static_cast<double>(static_cast<float>(to[i])) - x;
    ASSERT_LT(std::fabs(error), step) << i;
    difference += error;
    variance += step * step / 6;
  }
  EXPECT_LT(std::fabs(difference), 4.5 * std::sqrt(variance));
  EXPECT_GT(variance, 0);
}

TEST(RoundWeightsKernel, KeepsWhatIsNoNumberAndWaitsForFiniteNorms) {
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> weights{
      infinity, -infinity, std::numeric_limits<float>::quiet_NaN(), std::bit_cast<float>(0x7F800001U), 0.0F, -0.0F};
  const std::vector<bf16> to = rounded({whole_tensor(6, 1, "w")}, weights);
  EXPECT_EQ(static_cast<float>(to[0]), infinity);
  EXPECT_EQ(static_cast<float>(to[1]), -infinity);
  EXPECT_TRUE(std::isnan(static_cast<float>(to[2])) && std::isnan(static_cast<float>(to[3])));
  EXPECT_EQ(bits_of({to[4], to[5]}), (std::vector<std::uint16_t>{0, 0x8000}));
  std::vector<bf16> kept(6, bf16(7.0F));
  Update update;
  update.out.found_inf = 1;
  update.run<RoundWeights, float>({{whole_tensor(6, 1, "w")}}, {view(weights), view(kept)});
  EXPECT_EQ(bits_of(kept), std::vector<std::uint16_t>(6, bf16(7.0F).bits));
}

// The numbers of a tensor do not depend on threads, on where a rank's elements begin, or on what lies beside them.
TEST(RoundWeightsKernel, IsTheSameOnEveryLayout) {
  constexpr std::int64_t kRows = 41, kColumns = 37;
  auto weights = random_vector<float>("w", kRows * kColumns);
  const std::vector<bf16> whole = rounded({whole_tensor(kRows, kColumns, "w")}, weights);
  EXPECT_EQ(bits_of(whole), bits_of(rounded({whole_tensor(kRows, kColumns, "w")}, weights, 4, 1)));
  EXPECT_NE(bits_of(whole), bits_of(rounded({whole_tensor(kRows, kColumns, "w")}, weights, 5)));
  EXPECT_NE(bits_of(whole), bits_of(rounded({whole_tensor(kRows, kColumns, "v")}, weights)));
  // Columns 10 to 29 of it, behind four columns of another tensor, in a parameter of 24; elements 100 to 700 of that.
  constexpr std::int64_t kLocal = 24, kOther = 4, kFirst = 100, kCount = 600;
  std::vector<float> local;
  for (std::int64_t e = kFirst; e < kFirst + kCount; ++e) {
    const std::int64_t r = e / kLocal, c = e % kLocal;
    local.push_back(c < kOther ? 0.3F : weights[static_cast<std::size_t>(r * kColumns + 10 + c - kOther)]);
  }
  const std::vector<bf16> part =
      rounded({{0, kCount, kFirst, kLocal, 0, kOther, kRows, 20, 0, 10, kRows, kColumns, rounding_stream("w")}}, local);
  for (std::int64_t i = 0; i < kCount; ++i) {
    const std::int64_t r = (kFirst + i) / kLocal, c = (kFirst + i) % kLocal;
    const auto at = static_cast<std::size_t>(i), there = static_cast<std::size_t>(r * kColumns + 10 + c - kOther);
    EXPECT_EQ(part[at].bits, c < kOther ? 0 : whole[there].bits) << i;
  }
}

TEST(ClearKernel, ClearsWhateverTheDtype) {
  auto x = random_vector<double>("x");
  const std::vector<double> zeros(x.size(), 0);
  Update().run<Clear, float>({}, {view(x)}, Phase::Reduce);
  EXPECT_EQ(x, zeros);
}

template <class T>
void check_sgd(const Sgd::Attrs& a, double tolerance) {
  auto p = random_vector<T>("p");
  std::vector<T> m(p.size(), T(0));
  std::vector<double> rp(p.begin(), p.end()), rm(p.size(), 0), norm{0.25};
  Update update;
  update.in.learning_rate = 0.05F;
  update.in.loss_scale = 4;
  const double lr = update.in.learning_rate, clip = a.clip > 0 ? std::min(1.0, a.clip / (norm[0] + 1e-6)) : 1.0;
  for (int t = 1; t <= 3; ++t) {
    auto g = random_vector<T>(fmt::format("g{}", t));
    for (std::size_t i = 0; i < g.size(); ++i) {
      double gradient = static_cast<double>(g[i]) / 4 * clip;
      if (decays(a.decays, i)) gradient += a.weight_decay * rp[i];
      rm[i] = t == 1 ? gradient : a.momentum * rm[i] + gradient;
      rp[i] -= lr * (a.nesterov ? gradient + a.momentum * rm[i] : rm[i]);
    }
    update.run<Sgd, T>(a, {view(g), view(norm), view(p), view(m)});
  }
  expect_near(p, rp, tolerance);
  expect_near(m, rm, tolerance);
}

TEST(SgdKernel, FollowsTheReference) {
  for (const bool nesterov : {false, true}) {
    for (const double clip : {0.0, 0.1, 10.0}) {
      check_sgd<double>({0.9, 0.1, clip, nesterov, kDecays}, 1e-12);
      check_sgd<float>({0.9, 0.1, clip, nesterov, kDecays}, 2e-6);
      check_sgd<float>({0.0, 0.0, clip, nesterov}, 2e-6);
    }
  }
}

// Without momentum the velocity is the gradient: no buffer is needed.
TEST(SgdKernel, WithoutMomentumNeedsNoBuffer) {
  auto g = random_vector<double>("g"), with = random_vector<double>("p"), without = with;
  std::vector<double> m(g.size(), 0), norm{2};
  Update update;
  update.in.learning_rate = 0.1F;
  update.run<Sgd, double>({0.0, 0.1, 1.0, false, {{0, 7001}}}, {view(g), view(norm), view(with), view(m)});
  update.run<Sgd, double>({0.0, 0.1, 1.0, false, {{0, 7001}}}, {view(g), view(norm), view(without), View{}});
  expect_near(without, with, 1e-15);
}

TEST(UpdateKernels, BitsDoNotDependOnThreads) {
  std::vector<float> first;
  for (const int threads : {1, 2, 3}) {
    auto g = random_vector<float>("g"), p = random_vector<float>("p"), m = random_vector<float>("m");
    std::vector<float> v(p.size(), 1.0F);
    std::vector<double> norm{2};
    Update update;
    update.threads = threads;
    update.in.learning_rate = 0.1F;
    update.run<AdamW, float>({0.9, 0.95, 1e-8, 0.1, 1.0, {{0, 7001}}},
                             {view(g), view(norm), view(p), view(m), view(v)});
    update.run<Sgd, float>({0.9, 0.1, 1.0, true, {{0, 7001}}}, {view(g), view(norm), view(p), view(m)});
    if (threads == 1) first = p;
    EXPECT_EQ(std::memcmp(first.data(), p.data(), p.size() * sizeof(float)), 0) << threads;
  }
}

// Beside the parameters, which do not notice, stands what other kernels read of them: rounded to nearest even; left
// alone by a step that is not made.
template <class Half>
void check_rounded() {
  for (const float infinite : {0.0F, 1.0F}) {
    auto g = random_vector<float>("g"), plain = random_vector<float>("p"), m = random_vector<float>("m");
    std::vector<float> v(g.size(), 1.0F), master = plain, m2 = m, v2 = v;
    std::vector<Half> rounded(g.size(), Half(7.0F));
    std::vector<double> norm{2};
    Update update;
    update.in.learning_rate = 0.1F;
    update.out.found_inf = infinite > 0 ? 1 : 0;
    const AdamW::Attrs adamw{0.9, 0.95, 1e-8, 0.1, 1.0, {{0, 7001}}};
    update.run<AdamW, float>(adamw, {view(g), view(norm), view(plain), view(m), view(v)});
    update.run<AdamW, float>(adamw, {view(g), view(norm), view(master), view(m2), view(v2), view(rounded)});
    const auto expect_rounded = [&](std::string_view op) {
      EXPECT_EQ(master, plain) << op;
      for (std::size_t i = 0; i < master.size(); ++i) {
        ASSERT_EQ(rounded[i].bits, Half(infinite > 0 ? 7.0F : master[i]).bits) << op << " at " << i;
      }
    };
    expect_rounded("adamw");
    for (const double momentum : {0.0, 0.9}) {
      const Sgd::Attrs sgd{momentum, 0.1, 1.0, momentum > 0, {{0, 7001}}};
      View buffer = view(m), buffer2 = view(m2);
      if (momentum == 0) buffer = buffer2 = View{};
      update.run<Sgd, float>(sgd, {view(g), view(norm), view(plain), buffer});
      update.run<Sgd, float>(sgd, {view(g), view(norm), view(master), buffer2, view(rounded)});
      expect_rounded("sgd");
    }
  }
}

TEST(UpdateKernels, RoundTheParametersForOtherKernels) {
  check_rounded<bf16>();
  check_rounded<f16>();
}

double run_norm(std::vector<float>& g, const std::vector<Segment>& segments, Update& update) {
  SquareSums::Attrs attrs{segments, static_cast<std::int64_t>(segments.size())};
  for (std::size_t i = 0; i < segments.size(); ++i) attrs.segments[i].tensor = static_cast<int>(i);
  SlotSpecs specs;
  specs.set(SquareSums::kGradients, view(g).spec);
  SquareSums::infer(attrs, specs);
  update.workspace.resize(std::size_t(SquareSums::workspace_bytes(attrs, specs, Phase::Update, update.threads)));
  std::vector<double> sums(segments.size(), -1), norm{-1};
  update.run<SquareSums, float>(attrs, {view(g), view(sums)});
  update.run<GlobalNorm, double>({}, {view(sums), view(norm)});
  EXPECT_TRUE(norm[0] == update.out.grad_norm || std::isnan(norm[0]));
  return norm[0];
}

TEST(GlobalNormKernel, SumsTheSegmentsInDouble) {
  auto g = random_vector<float>("g", 100003);
  g[60] = 1e30F;  // in a gap: not counted
  const std::vector<Segment> segments{{0, 7}, {7, 33}, {64, 40000}, {40064, 0}, {40070, 59933}};
  double total = 0;
  for (const Segment& s : segments) {
    for (std::int64_t i = 0; i < s.elements; ++i) total += std::pow(double(g[std::size_t(s.offset + i)]), 2);
  }
  double first = 0;
  for (const int threads : {1, 2, 3}) {
    Update update;
    update.threads = threads;
    update.in.loss_scale = 8;
    const double norm = run_norm(g, segments, update);
    EXPECT_NEAR(norm, std::sqrt(total) / 8, 1e-12 * norm);
    EXPECT_EQ(update.out.found_inf, 0);
    if (threads == 1) first = norm;
    EXPECT_EQ(norm, first);
  }
}

TEST(GlobalNormKernel, ReportsWhatIsNotFinite) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    auto g = random_vector<float>("g", 100);
    Update update;
    run_norm(g, {{0, 100}}, update);
    EXPECT_EQ(update.out.found_inf, 0);
    g[99] = bad;
    run_norm(g, {{0, 100}}, update);
    EXPECT_EQ(update.out.found_inf, 1);
    run_norm(g, {{0, 99}}, update);
    EXPECT_EQ(update.out.found_inf, 0);
  }
}

}  // namespace
}  // namespace plimsoll
