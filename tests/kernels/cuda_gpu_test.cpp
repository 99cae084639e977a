// The CUDA kernels beside those of the CPU in fp64, on every sample of every op and in every dtype that they take.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "kernels/cpu/register.hpp"
#include "kernels/cuda_module.hpp"
#include "launch/backend.hpp"
#include "launch/device_rates.hpp"
#include "runtime/ops/attention_device.hpp"
#include "tests/kernels/cuda_cases.hpp"
#include "tests/support/environment.hpp"
#include "tests/support/missing_gpu.hpp"

namespace plimsoll {
namespace {

using namespace test;

// Nothing is found missing when a program is bound. Without a GPU as well.
TEST(CudaKernelTable, HasEveryOpThatIsNoCollective) {
  if (!cuda_is_built()) GTEST_SKIP() << "this build has no CUDA";
  const KernelTable kernels = cuda_module().kernels({});
  for (const OpId copy : {op_id<ToHost>, op_id<FromHost>})
    EXPECT_NE(kernels.find(copy, Phase::Forward, DType::f8e4m3), nullptr) << "of what fp8 linears keep";
  EXPECT_NE(kernels.find(op_id<Scale>, Phase::Forward, DType::f64), nullptr) << "of the loss of a pipeline";
  for (const OpInfo& op : all_ops()) {
    if (op.collective) continue;
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      for (const OpCase& c : device_cases(op, dtype)) {
        EXPECT_NE(kernels.find(op.id, first_phase(op), c.dtype()), nullptr) << c.text();
        if (!op.differentiable()) continue;
        EXPECT_NE(kernels.find(op.id, Phase::InputGrad, c.dtype()), nullptr) << c.text();
        if (!op.splits_backward) continue;
        EXPECT_NE(kernels.find(op.id, Phase::WeightGrad, c.dtype()), nullptr) << c.text();
      }
    }
  }
}

class CudaKernels : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto missing = missing_gpu()) GTEST_SKIP() << *missing;
    device_ = cuda_module().make_device({});
    kernels_ = cuda_module().kernels({});
  }
  std::unique_ptr<Device> device_;
  KernelTable kernels_;
};

// By tests/emulation, for which some tests are too long.
bool is_emulated() { return cuda_module().devices().front().name == "NVIDIA H200 (emulated)"; }
constexpr const char* kTooLong = "hours on an emulated GPU";

// Relative to the largest number of a tensor.
double tolerance(DType dtype) { return dtype == DType::bf16 ? 2e-2 : dtype == DType::f16 ? 3e-3 : 1e-5; }

// As a kernel of this dtype gets them.
void round_numbers(SlotNumbers& numbers, const OpCase& c, bool gradients) {
  for (int s = 0; s < c.slots(); ++s) {
    std::vector<double>& n = numbers[static_cast<std::size_t>(s)];
    if (n.empty() || !c.specs.has(s)) continue;
    const DType dtype = gradients ? gradient_spec(c.slot(s), c.specs[s]).dtype : c.specs[s].dtype;
    n = to_numbers(to_bytes(n, dtype), dtype);
  }
}

// Gradients are differences of terms of order one, which may cancel: those of a LayerNorm of two elements are almost
// zero.
constexpr double kLeastValue = 1e-3, kLeastGradient = 2e-2;

void expect_close(const std::vector<double>& found, const std::vector<double>& expected, double tolerance,
                  double least = kLeastValue) {
  ASSERT_EQ(found.size(), expected.size());
  double largest = least;
  for (const double x : expected) largest = std::isfinite(x) ? std::max(largest, std::fabs(x)) : largest;
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (found[i] == expected[i] || (std::isnan(found[i]) && std::isnan(expected[i]))) continue;
    ASSERT_LE(std::fabs(found[i] - expected[i]), tolerance * largest) << "element " << i << " is " << found[i];
  }
}

// One sample, run in fp64 on the host and in its dtype on the device.
struct Comparison {
  const KernelTable& kernels;
  Device& device;
  const OpCase &mine, &exact;
  double rounding = 0;  // that operands have beside that of their dtype

  void run(OpRun how) const {
    OpInputs in = random_inputs(mine, 11);
    // Moments are not negative; nor are sums of squares.
    if (mine.op->update_only)
      for (auto& numbers : in.value)
        for (double& x : numbers) x = std::fabs(x);
    round_numbers(in.value, mine, false);
    round_numbers(in.grad, mine, true);
    round_numbers(in.previous, mine, true);
    how.phase = first_phase(*mine.op);
    how.backward = how.backward && mine.op->differentiable();
    const OpResult expected = run_op(cpu_kernels(), exact, in, how);
    how.device = &device;
    how.threads = kDeviceThreads;
    const OpResult found = run_op(kernels, mine, in, how), again = run_op(kernels, mine, in, how);
    for (int s = 0; s < mine.slots(); ++s) {
      SCOPED_TRACE(mine.slot(s).name);
      const auto at = static_cast<std::size_t>(s);
      EXPECT_EQ(found.value[at], again.value[at]) << "differs from run to run";
      EXPECT_EQ(found.grad[at], again.grad[at]) << "differs from run to run";
      // What comes out in f32 of a kernel that computes in bf16 has seen bf16 on its way; an update rounds its result.
      const DType value = mine.specs[s].dtype, exact_value = exact.specs[s].dtype, compute = mine.dtype();
      // Tensor cores add products of fp8 with fewer bits than a float has.
      const double sums = mine.op->id == op_id<LinearFp8> ? 1e-3 : 0;
      const double most = std::max({tolerance(value), tolerance(compute), sums, rounding});
      expect_close(to_numbers(found.value[at], value), to_numbers(expected.value[at], exact_value), most);
      const TensorSpec grad = gradient_spec(mine.slot(s), mine.specs[s]);
      expect_close(to_numbers(found.grad[at], grad.dtype), to_numbers(expected.grad[at], exact_value), most,
                   kLeastGradient);
    }
  }
};

// Of the device that the tests use.
std::optional<std::string> no_fp8() {
  const CudaDeviceInfo info = cuda_module().devices().front();
  return fp8_gpu_fault(info.name, info.major, info.minor);
}

void compare(const KernelTable& kernels, Device& device, const OpInfo& op, DType dtype) {
  const std::vector<OpCase> cases = device_cases(op, dtype), exact = op_cases(op, DType::f64);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(cases[i].text());
    const Comparison comparison{kernels, device, cases[i], exact[i]};
    comparison.run({});
    if (!op.differentiable()) continue;
    OpRun accumulate, in_place;
    accumulate.accumulate = true;
    in_place.in_place = true;
    comparison.run(accumulate);
    comparison.run(in_place);
  }
}

void compare(const KernelTable& kernels, Device& device, DType dtype) {
  for (const OpInfo& op : all_ops()) {
    if (op.collective || (op.update_only && dtype != DType::f32)) continue;
    if (op.id == op_id<LinearFp8> && no_fp8()) continue;  // LinearsInFp8AgreeWithTheCpu says so
    compare(kernels, device, op, dtype);
  }
}

// The device's own clock, and its memory outside of what was asked for: the first product brings the library's.
TEST_F(CudaKernels, AreTimedAndSeenInMemory) {
  if (is_emulated()) GTEST_SKIP() << kTooLong;
  const std::int64_t before = device_->outside_bytes().value();
  EXPECT_GT(before, 0) << "a context";
  Backend backend;
  backend.device = std::move(device_);
  backend.kernels = kernels_;
  backend.threads = kDeviceThreads;
  warm_up(backend, family_defaults(ModelFamily::Gpt2), DType::bf16, 256);
  EXPECT_GE(backend.device->outside_bytes().value(), before);
  const double rate = product_flops_per_s(backend, DType::bf16);
  EXPECT_GT(rate, 1e12);
  EXPECT_LT(rate, 1e16);
  EXPECT_GT(elementwise_bytes_per_s(backend), 1e10);
  EXPECT_GT(copied_bytes_per_s(backend), 1e8);
}

TEST_F(CudaKernels, LinearsInFp8AgreeWithTheCpu) {
  if (const auto fault = no_fp8()) GTEST_SKIP() << *fault;
  const OpInfo& op = op_info("linear_fp8");
  const std::vector<OpCase> cases = device_cases(op, DType::bf16), exact = op_cases(op, DType::f64);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(cases[i].text());
    Comparison{kernels_, *device_, cases[i], exact[i]}.run({});
  }
}

// The same.
FusedHeads fused_heads_here() {
  const CudaDeviceInfo info = cuda_module().devices().front();
  return fused_heads(10 * info.major + info.minor, cuda_module().versions().cudnn);
}

OpCase attention_case(const Attention::Attrs& attrs, std::int64_t batch, std::int64_t length, DType dtype) {
  OpCase c{&op_info("attention"), Attrs(std::in_place_index<op_id<Attention>>, attrs), {}, 0};
  c.specs.set(Attention::kQkv, {{batch, length, attrs.layout.packed_width()}, dtype});
  c.op->infer(c.attrs, c.specs);
  return c;
}

// The samples of the declaration have heads that the library does not take, and none wider than 64.
TEST_F(CudaKernels, AttentionAgreesWithTheCpuForHeadsOfEverySize) {
  struct Case {
    Attention::Attrs attrs;
    std::int64_t batch, length;
    bool fused;  // where the GPU has fused kernels for heads of this size
  };
  const FusedHeads here = fused_heads_here();
  for (Case c : {Case{{{4, 2, 64}, 0.125}, 2, 100, true},
                 {{{2, 2, 128}, 0.1}, 1, 77, true},
                 {{{6, 2, 8}, 0.3}, 3, 130, true},
                 {{{4, 2, 64}, 0.125}, 1, 192, true},
                 {{{2, 1, 128}, 0.1}, 1, 320, true},
                 {{{4, 2, 64}, 0.125, 0.1, 2}, 2, 50, false},
                 {{{4, 1, 128}, 0.1, 0.25, 5}, 2, 50, false},
                 {{{2, 1, 136}, 0.1}, 2, 70, true},
                 {{{4, 4, 192}, 0.07}, 2, 130, true},
                 {{{6, 2, 192}, 0.07}, 1, 333, true},
                 {{{3, 3, 256}, 0.06}, 1, 49, true},
                 {{{4, 1, 256}, 0.06}, 2, 200, true},
                 {{{2, 2, 192}, 0.07, 0.25, 5}, 2, 50, false},
                 {{{4, 2, 250}, 0.06, 0.25, 3}, 2, 35, false}}) {
    if (is_emulated() && c.length > 80) continue;  // minutes each
    c.attrs.fused_heads = here;
    const OpCase exact = attention_case(c.attrs, c.batch, c.length, DType::f64);
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      const OpCase mine = attention_case(c.attrs, c.batch, c.length, dtype);
      SCOPED_TRACE(mine.text());
      const auto is_fused = [&](Phase phase) { return fused_slices(c.attrs, mine.specs, phase).samples > 0; };
      const bool may = c.fused && dtype != DType::f32;
      EXPECT_EQ(is_fused(Phase::Forward), may && c.attrs.layout.head_dim <= here.forward);
      EXPECT_EQ(is_fused(Phase::InputGrad), may && c.attrs.layout.head_dim <= here.backward);
      OpRun accumulate;
      accumulate.accumulate = true;
      for (const OpRun& how : {OpRun{}, accumulate}) Comparison{kernels_, *device_, mine, exact}.run(how);
    }
  }
}

OpCase cached_attention_case(const HeadLayout& layout, std::int64_t queries, DType dtype) {
  OpCase c{&op_info("cached_attention"),
           Attrs(std::in_place_index<op_id<CachedAttention>>, CachedAttention::Attrs{layout, 0.1}),
           {},
           0};
  const std::int64_t batch = 2, positions = queries + 7, width = std::int64_t{layout.kv_heads} * layout.head_dim;
  c.specs.set(CachedAttention::kQkv, {{batch, queries, layout.packed_width()}, dtype});
  for (const int cache : {CachedAttention::kKeys, CachedAttention::kValues})
    c.specs.set(cache, {{batch, positions, width}, dtype});
  c.op->infer(c.attrs, c.specs);
  return c;
}

// Rows whose size is a multiple of 16 bytes and others; blocks of a query, and of tiles.
TEST_F(CudaKernels, CachedAttentionAgreesWithTheCpuForHeadsOfEverySize) {
  for (const int head_dim : {8, 36, 64, 80, 128, 250, 256}) {
    for (const std::int64_t queries : {1, 13, 40}) {
      const HeadLayout layout{4, 2, head_dim};
      const OpCase exact = cached_attention_case(layout, queries, DType::f64);
      for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
        const OpCase mine = cached_attention_case(layout, queries, dtype);
        SCOPED_TRACE(mine.text());
        Comparison{kernels_, *device_, mine, exact}.run({});
      }
    }
  }
}

OpCase embedding_case(std::int64_t length, std::int64_t h, DType dtype) {
  constexpr std::int64_t kVocabulary = 37;
  OpCase c{&op_info("embedding"), Attrs(std::in_place_index<op_id<Embedding>>, Embedding::Attrs{}), {}, kVocabulary};
  c.specs.set(Embedding::kTokens, {{3, length}, DType::i32});
  c.specs.set(Embedding::kWeight, {{kVocabulary, h}, dtype});
  c.specs.set(Embedding::kPositions, {{length + 2, h}, dtype});
  c.op->infer(c.attrs, c.specs);
  return c;
}

// More tokens than a block lists at once, and rows of 16 bytes and others; the samples have fewer.
TEST_F(CudaKernels, EmbeddingsOfManyTokensAgreeWithTheCpu) {
  for (const std::int64_t h : {24, 13}) {
    const OpCase exact = embedding_case(701, h, DType::f64);
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      const OpCase mine = embedding_case(701, h, dtype);
      SCOPED_TRACE(mine.text());
      Comparison{kernels_, *device_, mine, exact}.run({});
    }
  }
}

// As in evaluation: GELU in the product, where the library has it.
void compare_linears_that_keep_nothing(const KernelTable& kernels, Device& device) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const Activation activation : {Activation::GeluTanh, Activation::GeluErf}) {
      for (const bool bias : {false, true}) {
        for (const auto& sizes : {std::array<std::int64_t, 3>{1, 64, 256}, {130, 72, 200}, {7, 5, 9}}) {
          const auto case_of = [&](DType of) {
            const auto [rows, in, out] = sizes;
            OpCase c{&op_info("linear"), Attrs(std::in_place_type<Linear::Attrs>, true, activation, false), {}, 0};
            c.specs.set(Linear::kX, {{rows, in}, of});
            c.specs.set(Linear::kWeight, {{in, out}, of});
            if (bias) c.specs.set(Linear::kBias, {{out}, of});
            c.op->infer(c.attrs, c.specs);
            return c;
          };
          const OpCase mine = case_of(dtype), exact = case_of(DType::f64);
          SCOPED_TRACE(mine.text());
          OpRun forward;
          forward.backward = false;
          Comparison{kernels, device, mine, exact}.run(forward);
        }
      }
    }
  }
}

TEST_F(CudaKernels, LinearsThatKeepNothingAgreeWithTheCpu) { compare_linears_that_keep_nothing(kernels_, *device_); }

// cuda.epilogues: off. The emulated library ends the process where a product asks for one.
TEST_F(CudaKernels, LinearsWithoutEpiloguesAgreeWithTheCpu) {
  const EnvironmentVariable unasked("EMULATED_CUBLASLT", "unasked");
  CudaDeviceOptions options;
  options.epilogues = false;
  const KernelTable kernels = cuda_module().kernels(options);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    compare(kernels, *device_, op_info("linear"), dtype);
    if (!no_fp8()) compare(kernels, *device_, op_info("linear_fp8"), dtype);
  }
  compare_linears_that_keep_nothing(kernels, *device_);
}

// The outputs of an update beside those of the CPU, in the same bits.
void expect_same_update(const KernelTable& kernels, Device& device, const OpCase& c, int slot) {
  const OpInputs in = random_inputs(c, 7);
  OpRun how;
  how.phase = Phase::Update;
  how.backward = false;
  const OpResult expected = run_op(cpu_kernels(), c, in, how);
  how.device = &device;
  how.threads = kDeviceThreads;
  const auto at = static_cast<std::size_t>(slot);
  ASSERT_FALSE(expected.value[at].empty());
  EXPECT_EQ(run_op(kernels, c, in, how).value[at], expected.value[at]);
}

// Those of a tensor are added in the order of the list, whichever of them go with one launch. A square of a float is
// exact in fp64, so that segments of one element leave no choice but that order.
TEST_F(CudaKernels, SegmentsOfANormThatTakeTwoLaunchesAreAddedInOrder) {
  SquareSums::Attrs attrs;
  attrs.tensors = 7;
  constexpr int kSegments = 1100;
  for (int i = 0; i < kSegments; ++i)
    attrs.segments.push_back({i, i % 100 == 3 ? 0 : 1, i % 3 == 0 ? 4 : i * 5 % 7});  // some are empty
  OpCase c{&op_info("square_sums"), Attrs(std::in_place_type<SquareSums::Attrs>, attrs), {}, 0};
  c.specs.set(SquareSums::kGradients, {{kSegments}, DType::f32});
  c.op->infer(c.attrs, c.specs);
  expect_same_update(kernels_, *device_, c, SquareSums::kSums);
}

TEST_F(CudaKernels, WeightsOfManyTensorsAreRoundedInTwoLaunches) {
  RoundWeights::Attrs attrs;
  constexpr int kTensors = 300, kColumns = 3;
  for (int i = 0; i < kTensors; ++i)
    attrs.segments.push_back({std::int64_t{i} * kColumns, kColumns, 0, kColumns, 0, 0, 1, kColumns, 0, 0, 1, kColumns,
                              rounding_stream(fmt::format("tensor {}", i))});
  OpCase c{&op_info("round_weights"), Attrs(std::in_place_type<RoundWeights::Attrs>, attrs), {}, 0};
  c.specs.set(RoundWeights::kWeights, {{std::int64_t{kTensors} * kColumns}, DType::f32});
  c.op->infer(c.attrs, c.specs);
  expect_same_update(kernels_, *device_, c, RoundWeights::kRounded);
}

// What a plan says the library computes, it does: our own kernels, which would follow, leave other bits.
TEST_F(CudaKernels, TheLibraryTakesTheHeadsThatPlansGiveIt) {
  if (cuda_module().versions().cudnn < kOldestCudnn) GTEST_SKIP() << "no cuDNN, or an old one";
  const FusedHeads here = fused_heads_here();
  for (const HeadLayout& layout : {HeadLayout{4, 4, 64}, {4, 2, 128}, {4, 4, 192}, {4, 1, 192}, {4, 2, 256}}) {
    for (const DType dtype : {DType::bf16, DType::f16}) {
      const auto run = [&](const FusedHeads& fused) {
        Attention::Attrs attrs{layout, 0.07};
        attrs.fused_heads = fused;
        const OpCase c = attention_case(attrs, 2, 512, dtype);
        OpInputs in = random_inputs(c, 3);
        round_numbers(in.value, c, false);
        round_numbers(in.grad, c, true);
        OpRun how;
        how.device = device_.get();
        how.threads = kDeviceThreads;
        return run_op(kernels_, c, in, how);
      };
      SCOPED_TRACE(fmt::format("{} query and {} key heads of {}", layout.heads, layout.kv_heads, layout.head_dim));
      const OpResult ours = run({0, 0}), forward = run({here.forward, 0}), both = run(here);
      EXPECT_EQ(forward.value[Attention::kOut] != ours.value[Attention::kOut], layout.head_dim <= here.forward);
      EXPECT_EQ(both.value[Attention::kOut], forward.value[Attention::kOut]);
      EXPECT_EQ(both.grad[Attention::kQkv] != forward.grad[Attention::kQkv], layout.head_dim <= here.backward);
    }
  }
}

// Columns [first, first + count) of rows of so many.
struct Columns {
  std::int64_t first, count;
};
// Rows [begin, end) of the columns, one set after the other.
std::vector<double> part_of(const std::vector<double>& rows, std::int64_t width, std::int64_t begin, std::int64_t end,
                            std::initializer_list<Columns> columns) {
  std::vector<double> part;
  for (std::int64_t row = begin; row < end; ++row) {
    for (const Columns& c : columns) {
      const auto at = rows.begin() + row * width + c.first;
      part.insert(part.end(), at, at + c.count);
    }
  }
  return part;
}

// Backward whose workspace does not fit in one slice, beside the slices as nodes of their own, which do.
void compare_slices(const KernelTable& kernels, Device& device, const HeadLayout& layout, std::int64_t batch,
                    std::int64_t length) {
  const Attention::Attrs attrs{layout, 0.35};
  const OpCase whole = attention_case(attrs, batch, length, DType::f16);
  OpInputs in = random_inputs(whole, 5);
  round_numbers(in.value, whole, false);
  round_numbers(in.grad, whole, true);
  OpRun how;
  how.device = &device;
  how.threads = kDeviceThreads;
  const OpResult all = run_op(kernels, whole, in, how);
  const auto out = to_numbers(all.value[Attention::kOut], DType::f16);
  const auto gradient = to_numbers(all.grad[Attention::kQkv], DType::f16);
  const FusedSlices slices = fused_slices(attrs, whole.specs, Phase::InputGrad);
  int count = 0;
  for_each_slice(slices, batch, layout.kv_heads, [&](const FusedSlice& slice) {
    SCOPED_TRACE(fmt::format("slice {}", count++));
    const std::int64_t group = layout.heads / layout.kv_heads, d = layout.head_dim;
    const std::int64_t begin = slice.sample * length, end = begin + slice.samples * length;
    const Columns queries{slice.kv_head * group * d, slice.kv_heads * group * d};
    const Columns keys{layout.output_width() + slice.kv_head * d, slice.kv_heads * d};
    const Columns values{keys.first + layout.kv_heads * d, keys.count};
    const auto packed = [&](const std::vector<double>& x) {
      return part_of(x, layout.packed_width(), begin, end, {queries, keys, values});
    };
    const auto result = [&](const std::vector<double>& x) {
      return part_of(x, layout.output_width(), begin, end, {queries});
    };
    Attention::Attrs part = attrs;
    part.layout.heads = static_cast<int>(slice.kv_heads * group);
    part.layout.kv_heads = static_cast<int>(slice.kv_heads);
    const OpCase one = attention_case(part, slice.samples, length, DType::f16);
    const FusedSlices of_one = fused_slices(part, one.specs, Phase::InputGrad);
    EXPECT_TRUE(of_one.samples == slice.samples && of_one.kv_heads == slice.kv_heads);
    OpInputs sliced = random_inputs(one, 5);
    sliced.value[Attention::kQkv] = packed(in.value[Attention::kQkv]);
    sliced.grad[Attention::kOut] = result(in.grad[Attention::kOut]);
    const OpResult found = run_op(kernels, one, sliced, how);
    expect_close(to_numbers(found.value[Attention::kOut], DType::f16), result(out), tolerance(DType::f16));
    expect_close(to_numbers(found.grad[Attention::kQkv], DType::f16), packed(gradient), tolerance(DType::f16));
  });
  EXPECT_GT(count, 1);
}

TEST_F(CudaKernels, AttentionInSlicesOfTheBatchIsThatOfTheSlices) {
  if (is_emulated()) GTEST_SKIP() << kTooLong;
  compare_slices(kernels_, *device_, {4, 2, 8}, 5, 8192);  // 3 and 2
}
TEST_F(CudaKernels, AttentionInSlicesOfTheHeadsIsThatOfTheSlices) {
  if (is_emulated()) GTEST_SKIP() << kTooLong;
  compare_slices(kernels_, *device_, {6, 3, 8}, 2, 16384);  // a key head of a sample in each
}

// cuda.tf32: operands keep ten bits behind the first.
TEST_F(CudaKernels, LinearsInTf32AgreeWithTheCpu) {
  CudaDeviceOptions options;
  options.tf32 = true;
  const KernelTable rounding = cuda_module().kernels(options);
  const OpInfo& op = op_info("linear");
  const std::vector<OpCase> cases = device_cases(op, DType::f32), exact = op_cases(op, DType::f64);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(cases[i].text());
    OpRun accumulate;
    accumulate.accumulate = true;
    for (const OpRun& how : {OpRun{}, accumulate}) Comparison{rounding, *device_, cases[i], exact[i], 3e-3}.run(how);
  }
}

TEST_F(CudaKernels, AgreeWithTheCpuInF32) { compare(kernels_, *device_, DType::f32); }
TEST_F(CudaKernels, AgreeWithTheCpuInBf16) { compare(kernels_, *device_, DType::bf16); }
TEST_F(CudaKernels, AgreeWithTheCpuInF16) { compare(kernels_, *device_, DType::f16); }

}  // namespace
}  // namespace plimsoll
