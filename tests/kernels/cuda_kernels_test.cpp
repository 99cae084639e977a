// What can be checked of the CUDA kernels without a GPU.

#include <gtest/gtest.h>

#include "kernels/cuda/product_shape.hpp"
#include "runtime/ops/attention_device.hpp"
#include "tests/support/op_harness.hpp"

namespace plimsoll {
namespace {

using namespace test;

TEST(CudaKernelTable, WorkspaceOfProductsIsPlannedForTheDeviceOnly) {
  const OpInfo& op = op_info("linear");
  const OpCase c = op_cases(op, DType::bf16).front();
  EXPECT_EQ(op.workspace_bytes(c.attrs, c.specs, Phase::Forward, 1), 0);
  EXPECT_EQ(op.workspace_bytes(c.attrs, c.specs, Phase::Forward, kDeviceThreads), std::int64_t{32} << 20);
}

SlotSpecs specs_of(const HeadLayout& layout, std::int64_t batch, std::int64_t length, DType dtype = DType::bf16) {
  SlotSpecs specs;
  specs.set(Attention::kQkv, {{batch, length, layout.packed_width()}, dtype});
  return specs;
}

// What cuDNN's documentation says, and what it has plans for: backward of wide heads on Hopper alone.
TEST(CudaKernelTable, WhoComputesHeadsOfWhichSizeOnWhichGpu) {
  struct Case {
    std::vector<int> compute_capabilities;
    int forward, backward;
  };
  for (const Case& c :
       {Case{{0, 70, 75}, 128, 128}, {{80, 86, 89}, 256, 128}, {{90}, 256, 256}, {{100, 103, 120, 121}, 256, 128}}) {
    for (const int compute_capability : c.compute_capabilities) {
      const FusedHeads fused = fused_heads(compute_capability);
      EXPECT_EQ(fused, (FusedHeads{c.forward, c.backward})) << compute_capability;
      for (const int head_dim : {8, 63, 64, 128, 129, 136, 192, 196, 256, 264}) {
        SCOPED_TRACE(fmt::format("heads of {}, compute capability {}", head_dim, compute_capability));
        Attention::Attrs attrs{{4, 2, head_dim}, 0.1};
        attrs.fused_heads = fused;
        const bool even = head_dim % 8 == 0;
        const auto is_fused = [&](DType dtype, Phase phase) {
          const SlotSpecs specs = specs_of(attrs.layout, 2, 256, dtype);
          const bool takes = fused_slices(attrs, specs, phase).samples > 0;
          EXPECT_EQ(Attention::workspace_bytes(attrs, specs, phase, kDeviceThreads) > 0, takes);
          return takes;
        };
        for (const DType dtype : {DType::bf16, DType::f16}) {
          EXPECT_EQ(is_fused(dtype, Phase::Forward), even && head_dim <= c.forward);
          EXPECT_EQ(is_fused(dtype, Phase::InputGrad), even && head_dim <= c.backward);
        }
        EXPECT_FALSE(is_fused(DType::f32, Phase::Forward) || is_fused(DType::f32, Phase::InputGrad));
      }
    }
  }
}

// What plans of cuDNN 9.19 asked for, made for descriptions of an H200 and an A100 (the larger of the two; heads wider
// than 128 an H200).
TEST(CudaKernelTable, WorkspaceOfFusedAttentionHoldsWhatPlansAskFor) {
  struct Case {
    int kv_heads, head_dim;
    std::int64_t length, backward_bytes;
    int heads = 12;
    std::int64_t batch = 4;
  };
  for (const Case& c : {Case{12, 64, 1024, 100663552},
                        Case{12, 64, 1000, 100663552},
                        Case{4, 64, 1024, 113246464},
                        Case{4, 64, 1000, 112951552},
                        Case{12, 128, 1024, 100663552},
                        Case{4, 128, 1024, 125829376},
                        Case{4, 128, 1000, 125239552},
                        Case{25, 64, 1024, 838861056, 25, 16},
                        Case{8, 64, 4096, 1107296512, 32, 1},
                        Case{8, 128, 2048, 603980032, 32, 2},
                        Case{2, 80, 333, 7226880, 6, 3},
                        Case{1, 8, 64, 147712, 4, 2},
                        Case{2, 120, 100, 323328, 4, 1},
                        Case{8, 64, 2048, 1140850944, 32, 4},
                        Case{25, 64, 4096, 1677721856, 25, 2},
                        Case{3, 128, 8192, 1660944640, 12, 1},
                        Case{1, 128, 12288, 1233125632, 4, 1},
                        Case{12, 136, 1024, 100663552},
                        Case{12, 192, 1024, 100663552},
                        Case{12, 256, 1024, 100663552},
                        Case{4, 136, 1024, 127402240},
                        Case{4, 192, 1024, 138412288},
                        Case{4, 256, 1024, 150995200},
                        Case{20, 192, 2048, 167772416, 20, 1},
                        Case{1, 192, 2048, 119537920, 12, 1},
                        Case{1, 256, 12288, 1258291456, 4, 1},
                        Case{4, 192, 8192, 536871168, 4, 1},
                        Case{1, 136, 70, 283648, 2, 2},
                        Case{2, 192, 333, 9912064, 6, 3},
                        Case{3, 256, 49, 49408, 3, 1},
                        Case{12, 64, 64, 786688},
                        Case{12, 64, 192, 4718848},
                        Case{4, 128, 192, 9437440},
                        Case{12, 128, 320, 11796736},
                        Case{12, 192, 150, 4718848},
                        Case{12, 192, 576, 35389696}}) {
    Attention::Attrs attrs{{c.heads, c.kv_heads, c.head_dim}, 0.125};
    attrs.fused_heads = fused_heads(90);
    const SlotSpecs specs = specs_of(attrs.layout, c.batch, c.length);
    const std::int64_t sums = row_sums_bytes(c.batch, c.heads, c.length);
    const std::int64_t planned = Attention::workspace_bytes(attrs, specs, Phase::InputGrad, kDeviceThreads);
    EXPECT_GE(planned, c.backward_bytes + sums);
    EXPECT_LE(planned, c.backward_bytes + sums + (std::int64_t{1} << 20));
    EXPECT_GE(Attention::workspace_bytes(attrs, specs, Phase::Forward, kDeviceThreads), 256);
  }
}

TEST(CudaKernelTable, WhatOurOwnAttentionDoesNeedsNoWorkspace) {
  const auto planned = [](const Attention::Attrs& attrs, DType dtype, std::int64_t length) {
    SlotSpecs specs;
    specs.set(Attention::kQkv, {{2, length, attrs.layout.packed_width()}, dtype});
    return Attention::workspace_bytes(attrs, specs, Phase::InputGrad, kDeviceThreads);
  };
  EXPECT_GT(planned({{4, 4, 64}, 0.125}, DType::f16, 256), 0);
  EXPECT_EQ(planned({{4, 4, 64}, 0.125}, DType::f32, 256), 0);
  EXPECT_EQ(planned({{4, 4, 63}, 0.125}, DType::f16, 256), 0);
  EXPECT_EQ(planned({{4, 4, 64}, 0.125, 0.1}, DType::f16, 256), 0);
  EXPECT_GT(planned({{32, 8, 128}, 0.125}, DType::bf16, 8192), 0);
  EXPECT_EQ(planned({{32, 8, 128}, 0.125}, DType::bf16, 32768), 0) << "more than a library's kernel may take";
  EXPECT_EQ(planned({{32, 8, 128}, 0.125}, DType::bf16, 8190), 0) << "slices of it would not be aligned";
  for (const std::int64_t cudnn : {std::int64_t{0}, kOldestCudnn - 1, kOldestCudnn}) {
    Attention::Attrs attrs{{4, 4, 64}, 0.125};
    attrs.fused_heads = fused_heads(90, cudnn);
    EXPECT_EQ(planned(attrs, DType::f16, 256) > 0, cudnn == kOldestCudnn) << cudnn;
  }
}

// Backward of a node, by layout, batch and length, and the slices that it is computed in.
struct SliceCase {
  HeadLayout layout;
  std::int64_t batch, length;
  std::int64_t samples, kv_heads, count;
};

void expect_slices(const SliceCase& c, std::int64_t wanted, std::int64_t most) {
  SCOPED_TRACE(fmt::format("{} x {}, {} heads", c.batch, c.length, c.layout.heads));
  const FusedSlices slices = fused_backward_slices(c.batch, c.layout, c.length, wanted, most);
  EXPECT_EQ(slices.samples, c.samples);
  EXPECT_EQ(slices.kv_heads, c.kv_heads);
  EXPECT_GT(slices.bytes, 0);
  EXPECT_LE(slices.bytes, most);
  std::vector<int> covered(static_cast<std::size_t>(c.batch * c.layout.kv_heads), 0);
  std::int64_t count = 0;
  for_each_slice(slices, c.batch, c.layout.kv_heads, [&](const FusedSlice& slice) {
    ++count;
    const std::int64_t heads = slice.kv_heads * (c.layout.heads / c.layout.kv_heads);
    EXPECT_GT(slice.samples, 0);
    EXPECT_GT(slice.kv_heads, 0);
    EXPECT_LE(fused_backward_bytes(slice.samples, heads, slice.kv_heads, c.length, c.layout.head_dim), slices.bytes);
    for (std::int64_t b = slice.sample; b < slice.sample + slice.samples; ++b) {
      for (std::int64_t k = slice.kv_head; k < slice.kv_head + slice.kv_heads; ++k)
        ++covered.at(static_cast<std::size_t>(b * c.layout.kv_heads + k));
    }
  });
  EXPECT_EQ(count, c.count);
  for (const int times : covered) EXPECT_EQ(times, 1);
}

TEST(CudaKernelTable, FusedAttentionTakesLargeShapesInSlices) {
  const HeadLayout llama_1b{32, 8, 64}, llama_8b{32, 8, 128}, gpt2_1558m{25, 25, 64}, gpt2_124m{12, 12, 64};
  for (const SliceCase& c : {SliceCase{gpt2_124m, 32, 1024, 32, 12, 1},  // all at once where that is little enough
                             {gpt2_1558m, 16, 1024, 16, 25, 1},
                             {llama_1b, 7, 2048, 7, 8, 1},
                             {llama_1b, 8, 2048, 4, 8, 2},  // not 7 and 1
                             {llama_1b, 2, 4096, 1, 8, 2},
                             {llama_1b, 4, 4096, 1, 8, 4},
                             {gpt2_1558m, 4, 4096, 2, 25, 2},
                             {gpt2_1558m, 5, 4096, 2, 25, 3},
                             {llama_8b, 1, 8192, 1, 3, 3},  // 3, 3 and 2 key heads
                             {llama_8b, 2, 8192, 1, 3, 6},
                             {llama_8b, 1, 12288, 1, 1, 8}}) {
    expect_slices(c, kMostFusedBytes, kMostFusedBytes);
    const Attention::Attrs attrs{c.layout, 0.125};
    SlotSpecs specs;
    specs.set(Attention::kQkv, {{c.batch, c.length, c.layout.packed_width()}, DType::bf16});
    const FusedSlices slices = fused_slices(attrs, specs, Phase::InputGrad);
    EXPECT_EQ(slices, fused_backward_slices(c.batch, c.layout, c.length));
    EXPECT_EQ(slices.bytes, Attention::workspace_bytes(attrs, specs, Phase::InputGrad, kDeviceThreads));
    EXPECT_EQ(fused_slices(attrs, specs, Phase::Forward), (FusedSlices{c.batch, c.layout.kv_heads, 256 << 10}));
  }
  const HeadLayout small{6, 3, 16};
  const std::int64_t two_samples = fused_backward_bytes(2, 6, 3, 128, 16),
                     one_head = fused_backward_bytes(1, 2, 1, 128, 16);
  expect_slices({small, 7, 128, 2, 3, 4}, two_samples, two_samples);
  expect_slices({small, 7, 128, 1, 3, 7}, two_samples - 1, two_samples);
  expect_slices({small, 7, 128, 1, 1, 21}, one_head, one_head);
  expect_slices({small, 7, 128, 1, 1, 21}, one_head - 1, one_head);
  EXPECT_EQ(fused_backward_slices(7, small, 128, one_head - 1, one_head - 1), FusedSlices{});
  // Of a key head with 16 query heads, as the ranks of a split Llama 3 405B have it.
  const FusedSlices large = fused_backward_slices(2, {16, 1, 128}, 8192);
  EXPECT_EQ(large.samples, 1);
  EXPECT_EQ(large.kv_heads, 1);
  EXPECT_GT(large.bytes, kMostFusedBytes);
  EXPECT_LE(large.bytes, kMostFusedHeadBytes);
}

// Element (row, column) of a matrix that is stored with its columns one after another, or of its transpose.
double element(const std::vector<double>& stored, std::int64_t ld, bool transposed, std::int64_t row,
               std::int64_t column) {
  return stored[static_cast<std::size_t>(transposed ? row * ld + column : column * ld + row)];
}

std::vector<double> numbers(std::int64_t n, double first) {
  std::vector<double> all;
  for (std::int64_t i = 0; i < n; ++i) all.push_back(first + static_cast<double>(i * i % 17));
  return all;
}

// The column-major product that the library is told makes the row-major one that was asked for.
TEST(CudaProduct, ColumnMajorFormIsTheSameProduct) {
  for (const bool trans_a : {false, true}) {
    for (const bool trans_b : {false, true}) {
      cuda::Product p{.trans_a = trans_a, .trans_b = trans_b, .m = 3, .n = 4, .k = 5};
      p.lda = (trans_a ? p.m : p.k) + 2;
      p.ldb = (trans_b ? p.k : p.n) + 1;
      p.ldc = p.n + 3;
      const std::int64_t stored_a = trans_a ? p.k : p.m, stored_b = trans_b ? p.n : p.k;
      const auto a = numbers(stored_a * p.lda, 1), b = numbers(stored_b * p.ldb, -3);
      const cuda::ColumnMajorProduct d = cuda::column_major(p);
      ASSERT_EQ(d.rows, p.n);
      ASSERT_EQ(d.columns, p.m);
      EXPECT_EQ(d.trans_a ? d.columns_a : d.rows_a, d.rows);
      EXPECT_EQ(d.trans_b ? d.rows_b : d.columns_b, d.columns);
      EXPECT_EQ(d.trans_a ? d.rows_a : d.columns_a, p.k);
      EXPECT_EQ(d.trans_b ? d.columns_b : d.rows_b, p.k);
      EXPECT_EQ(d.ld, p.ldc);
      for (std::int64_t i = 0; i < p.m; ++i) {
        for (std::int64_t j = 0; j < p.n; ++j) {
          double rows = 0, columns = 0;
          for (std::int64_t l = 0; l < p.k; ++l) {
            rows += element(a, p.lda, !trans_a, i, l) * element(b, p.ldb, !trans_b, l, j);
            columns += element(b, d.lda, d.trans_a, j, l) * element(a, d.ldb, d.trans_b, l, i);
          }
          EXPECT_EQ(rows, columns) << i << " " << j;
        }
      }
    }
  }
}

}  // namespace
}  // namespace plimsoll
