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

// What plans of cuDNN 9.19 asked for, made for descriptions of an H200 and an A100 (the larger of the two).
TEST(CudaKernelTable, WorkspaceOfFusedAttentionHoldsWhatPlansAskFor) {
  struct Case {
    int kv_heads, head_dim;
    std::int64_t length, backward_bytes;
    int heads = 12;
    std::int64_t batch = 4;
  };
  for (const Case& c :
       {Case{12, 64, 1024, 100663552}, Case{12, 64, 1000, 100663552}, Case{4, 64, 1024, 113246464},
        Case{4, 64, 1000, 112951552}, Case{12, 128, 1024, 100663552}, Case{4, 128, 1024, 125829376},
        Case{4, 128, 1000, 125239552}, Case{25, 64, 1024, 838861056, 25, 16}, Case{8, 64, 4096, 1107296512, 32, 1},
        Case{8, 128, 2048, 603980032, 32, 2}, Case{2, 80, 333, 7226880, 6, 3}, Case{1, 8, 64, 147712, 4, 2},
        Case{2, 120, 100, 323328, 4, 1}}) {
    const Attention::Attrs attrs{{c.heads, c.kv_heads, c.head_dim}, 0.125};
    SlotSpecs specs;
    specs.set(Attention::kQkv, {{c.batch, c.length, attrs.layout.packed_width()}, DType::bf16});
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
  EXPECT_EQ(planned({{32, 8, 128}, 0.125}, DType::bf16, 16384), 0) << "more than a library's kernel may take";
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
