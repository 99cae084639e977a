#include "kernels/cpu/packed_gemm.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernels/cpu/activation.hpp"
#include "kernels/cpu/gemm.hpp"
#include "kernels/cpu/micro_kernel.hpp"
#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

using simd::kTileColumns;
using simd::kTileRows;

// Rows of op(B) in a block: all of them where that fits, because every further block reads and writes C once more.
constexpr std::int64_t kMaxDepth = 768, kSplitDepth = 512;

// A thread's share of the workspace, in floats, for an L2 cache of 1 MiB. Where A is read in place, a block of packed B
// stays in L2 and rows of A pass by. Where A has to be packed too, a block of packed A stays in L2, so that each
// element is packed once for many columns, and panels of a larger block of packed B pass by.
constexpr std::int64_t kResidentB = 768 * 192, kPassingB = 768 * 512, kResidentA = 768 * 128;
static_assert((kPassingB + kResidentA) * 4 + 64 <= kPackedGemmBytesPerThread);

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

// Equal blocks: the order of summation, a function of k only.
std::int64_t block_depth(std::int64_t k) {
  return round_up(k <= kMaxDepth ? k : ceil_div(k, ceil_div(k, kSplitDepth)), simd::kLanes);
}

std::int64_t block_columns(std::int64_t depth, bool packs_a) {
  return (packs_a ? kPassingB : kResidentB) / depth / kTileColumns * kTileColumns;
}

std::int64_t block_rows(std::int64_t depth) { return kResidentA / depth / kTileRows * kTileRows; }

struct Range {
  std::int64_t begin, end;
  std::int64_t size() const { return end - begin; }
};

// Part `index` of `parts` of [0, size), in multiples of `unit`.
Range part(std::int64_t size, std::int64_t unit, int parts, int index) {
  const std::int64_t units = ceil_div(size, unit);
  return {std::min(size, units * index / parts * unit), std::min(size, units * (index + 1) / parts * unit)};
}

struct Grid {
  int rows, columns;
};

// The split of C over threads whose slowest thread has the least to do, in cycles per step of k: two FMAs of kLanes a
// cycle, and half a cycle for each element packed.
Grid thread_grid(const PackedProduct<float>& p, int threads) {
  const std::int64_t columns_per_block = block_columns(block_depth(p.k), p.trans_a);
  Grid best{threads, 1};
  double best_cost = INFINITY;
  for (int rows = 1; rows <= threads; ++rows) {
    const Grid grid{rows, threads / rows};
    const auto m = static_cast<double>(ceil_div(ceil_div(p.m, kTileRows), grid.rows) * kTileRows);
    const std::int64_t n = ceil_div(ceil_div(p.n, kTileColumns), grid.columns) * kTileColumns;
    const double packed =
        static_cast<double>(n) + (p.trans_a ? m * static_cast<double>(ceil_div(n, columns_per_block)) : 0);
    const double cost = m * static_cast<double>(n) / (2 * simd::kLanes) + 0.5 * packed;
    if (cost < best_cost) {
      best_cost = cost;
      best = grid;
    }
  }
  return best;
}

// c += bias on `rows` rows of n; then out = act(c). Null: without.
template <class T>
void finish_rows(Activation kind, std::int64_t rows, std::int64_t n, const T* bias, T* c, std::int64_t ldc, T* out,
                 std::int64_t ldout) {
  if (bias == nullptr && out == nullptr) return;
  with_activation(kind, [&](auto activation) {
    for (std::int64_t i = 0; i < rows; ++i) {
      T* row = c + i * ldc;
      if (bias != nullptr) {
#pragma omp simd
        for (std::int64_t j = 0; j < n; ++j) row[j] += bias[j];
      }
      if (out != nullptr) activate_range<activation>(row, out + i * ldout, n);
    }
  });
}

// One thread's part of C.
class Worker {
 public:
  Worker(const PackedProduct<float>& p, Range rows, Range columns, float* workspace)
      : p_(p), rows_(rows), columns_(columns), b_(workspace), a_(workspace + kPassingB) {}

  void run() {
    if (rows_.size() <= 0 || columns_.size() <= 0) return;
    const std::int64_t depth = block_depth(p_.k), width = block_columns(depth, p_.trans_a);
    for (std::int64_t k = 0; k < p_.k; k += depth) {
      const Range steps{k, std::min(p_.k, k + depth)};
      for (std::int64_t j = columns_.begin; j < columns_.end; j += width) {
        const Range columns{j, std::min(columns_.end, j + width)};
        if (p_.trans_a) {
          multiply_packed_a(steps, columns, block_rows(depth));
        } else {
          expect_block(steps, columns, depth, width);
          multiply_direct_a(steps, columns);
        }
      }
    }
  }

 private:
  // The panel of op(B) that begins at column j of the block `columns`. `raw` is set when the panel's first tile has to
  // pack it in passing; a panel that is transposed or incomplete is packed here.
  struct Panel {
    float* packed;
    const float* raw = nullptr;
  };
  Panel new_panel(Range steps, Range columns, std::int64_t j) const {
    Panel panel{b_ + (j - columns.begin) * steps.size()};
    const int width = static_cast<int>(std::min<std::int64_t>(kTileColumns, columns.end - j));
    const float* b = p_.b + (p_.trans_b ? j * p_.ldb + steps.begin : steps.begin * p_.ldb + j);
    if (p_.trans_b) {
      simd::pack_columns_transposed(steps.size(), width, b, p_.ldb, panel.packed);
    } else if (width < kTileColumns) {
      simd::pack_columns(steps.size(), width, b, p_.ldb, panel.packed);
    } else {
      panel.raw = b;
    }
    return panel;
  }

  void sum_panel(Range steps, Range columns, const Panel& panel) const {
    if (p_.column_sum_b == nullptr || rows_.begin != 0) return;
    sum_steps<kTileColumns>(steps, panel.packed, columns.size(), p_.column_sum_b + columns.begin);
  }

  // sums[0, width) = or += the sum over the steps of packed rows of kWidth.
  template <int kWidth>
  void sum_steps(Range steps, const float* packed, std::int64_t width, float* sums) const {
    float total[kWidth] = {};
    for (std::int64_t s = 0; s < steps.size(); ++s) {
      for (int l = 0; l < kWidth; ++l) total[l] += packed[s * kWidth + l];
    }
    const bool add = steps.begin > 0 || p_.beta != 0;
    for (std::int64_t l = 0; l < width; ++l) sums[l] = add ? sums[l] + total[l] : total[l];
  }

  // Rows of A pass by a block of packed B.
  void multiply_direct_a(Range steps, Range columns) {
    for (std::int64_t i = rows_.begin; i < rows_.end; i += kTileRows) {
      const Range rows{i, std::min(rows_.end, i + kTileRows)};
      const bool padded = rows.size() < kTileRows;
      if (padded) pad_rows(steps, rows);
      const float* a = padded ? a_ : p_.a + i * p_.lda + steps.begin;
      const std::int64_t next = rows.end < rows_.end ? rows.end : rows_.begin;
      expect(soon_.a, p_.a + next * p_.lda + steps.begin, p_.lda, std::min<std::int64_t>(kTileRows, p_.m - next),
             steps.size(), ceil_div(columns.size(), kTileColumns));
      for (std::int64_t j = columns.begin; j < columns.end; j += kTileColumns) {
        const Range tile_columns{j, std::min(columns.end, j + kTileColumns)};
        const bool first = i == rows_.begin;
        const Panel b = first ? new_panel(steps, columns, j) : Panel{b_ + (j - columns.begin) * steps.size()};
        multiply_tile(steps, rows, tile_columns, padded, a, b);
        if (first) sum_panel(steps, tile_columns, b);
      }
    }
  }

  // Panels of packed B pass by a block of packed A.
  void multiply_packed_a(Range steps, Range columns, std::int64_t height) {
    for (std::int64_t begin = rows_.begin; begin < rows_.end; begin += height) {
      const Range block{begin, std::min(rows_.end, begin + height)};
      pack_a(steps, block, columns);
      const std::int64_t slivers = ceil_div(block.size(), kTileRows);
      expect(soon_.a, p_.a + steps.begin * p_.lda + block.end, p_.lda, block.end < rows_.end ? steps.size() : 0,
             std::min(height, rows_.end - block.end), slivers * ceil_div(columns.size(), kTileColumns));
      for (std::int64_t j = columns.begin; j < columns.end; j += kTileColumns) {
        const Range tile_columns{j, std::min(columns.end, j + kTileColumns)};
        Panel b{b_ + (j - columns.begin) * steps.size()};
        if (begin == rows_.begin) {  // each panel is packed at its first use, while the next one is fetched
          b = new_panel(steps, columns, j);
          expect_raw_b(steps, {tile_columns.end, std::min(columns.end, j + 2 * kTileColumns)}, slivers);
        }
        for (std::int64_t i = block.begin; i < block.end; i += kTileRows) {
          multiply_tile(steps, {i, std::min(block.end, i + kTileRows)}, tile_columns, true,
                        a_ + (i - block.begin) * steps.size(), b);
          b.raw = nullptr;
        }
        if (begin == rows_.begin) sum_panel(steps, tile_columns, b);
      }
    }
  }

  // Lets the next `tiles` tiles prefetch `rows` rows of `width` floats.
  static void expect(simd::Stream& stream, const float* at, std::int64_t stride, std::int64_t rows, std::int64_t width,
                     std::int64_t tiles) {
    const std::int64_t lines = ceil_div(width, 16);
    stream = {
        at, stride, static_cast<int>(lines), rows * lines, static_cast<int>(ceil_div(rows * lines, kTileRows * tiles)),
        0};
  }

  void expect_raw_b(Range steps, Range columns, std::int64_t tiles) {
    if (p_.trans_b) {
      expect(soon_.b, p_.b + columns.begin * p_.ldb + steps.begin, p_.ldb, columns.size(), steps.size(), tiles);
    } else {
      expect(soon_.b, p_.b + steps.begin * p_.ldb + columns.begin, p_.ldb, steps.size(), columns.size(), tiles);
    }
  }

  // The block of B that will be packed after this one, if there is one.
  void expect_block(Range steps, Range columns, std::int64_t depth, std::int64_t width) {
    if (columns.end < columns_.end) {
      columns = {columns.end, std::min(columns_.end, columns.end + width)};
    } else {
      columns = {columns_.begin, std::min(columns_.end, columns_.begin + width)};
      steps = {steps.end, std::min(p_.k, steps.end + depth)};
    }
    expect_raw_b(steps, columns, ceil_div(rows_.size(), kTileRows) * ceil_div(columns.size(), kTileColumns));
  }

  void pack_a(Range steps, Range rows, Range columns) const {
    simd::pack_rows_transposed(steps.size(), rows.size(), p_.a + steps.begin * p_.lda + rows.begin, p_.lda, a_);
    if (p_.row_sum_a == nullptr || columns.begin != 0) return;
    for (std::int64_t i = rows.begin; i < rows.end; i += kTileRows) {
      const std::int64_t height = std::min<std::int64_t>(kTileRows, rows.end - i);
      sum_steps<kTileRows>(steps, a_ + (i - rows.begin) * steps.size(), height, p_.row_sum_a + i);
    }
  }

  // The last, incomplete tile of rows: a packed sliver padded with zeros.
  void pad_rows(Range steps, Range rows) const {
    const float* a = p_.a + rows.begin * p_.lda + steps.begin;
    for (std::int64_t s = 0; s < steps.size(); ++s) {
      for (int i = 0; i < kTileRows; ++i) a_[s * kTileRows + i] = i < rows.size() ? a[i * p_.lda + s] : 0.0F;
    }
  }

  using TileProduct = decltype(&simd::tile_product<false, false, false>);
  static TileProduct tile_product(bool packed_a, bool add, bool pack_b) {
    static constexpr TileProduct kProducts[2][2][2] = {
        {{simd::tile_product<false, false, false>, simd::tile_product<false, false, true>},
         {simd::tile_product<false, true, false>, simd::tile_product<false, true, true>}},
        {{simd::tile_product<true, false, false>, simd::tile_product<true, false, true>},
         {simd::tile_product<true, true, false>, simd::tile_product<true, true, true>}}};
    return kProducts[packed_a][add][pack_b];
  }

  void multiply_tile(Range steps, Range rows, Range columns, bool packed_a, const float* a, const Panel& panel) {
    const bool add = steps.begin > 0 || p_.beta != 0, last = steps.end == p_.k, pack_b = panel.raw != nullptr;
    const float* b = pack_b ? panel.raw : panel.packed;
    float* c = p_.c + rows.begin * p_.ldc + columns.begin;
    if (rows.size() == kTileRows && columns.size() == kTileColumns) {
      const bool writes_out = last && p_.activated != nullptr;
      soon_.out = writes_out ? p_.activated + rows.begin * p_.ldactivated + columns.begin : nullptr;
      soon_.ldout = p_.ldactivated;
      tile_product(packed_a, add, pack_b)(steps.size(), a, p_.lda, b, p_.ldb, panel.packed, c, p_.ldc, soon_);
    } else {
      alignas(64) float whole[kTileRows * kTileColumns];
      soon_.out = nullptr;
      tile_product(packed_a, false, pack_b)(steps.size(), a, p_.lda, b, p_.ldb, panel.packed, whole, kTileColumns,
                                            soon_);
      for (std::int64_t i = 0; i < rows.size(); ++i) {
        for (std::int64_t j = 0; j < columns.size(); ++j) {
          const float sum = whole[i * kTileColumns + j];
          c[i * p_.ldc + j] = add ? c[i * p_.ldc + j] + sum : sum;
        }
      }
    }
    if (last) {
      finish_rows(p_.activation, rows.size(), columns.size(), p_.bias ? p_.bias + columns.begin : nullptr, c, p_.ldc,
                  p_.activated ? p_.activated + rows.begin * p_.ldactivated + columns.begin : nullptr, p_.ldactivated);
    }
  }

  const PackedProduct<float>& p_;
  Range rows_, columns_;
  float* b_;  // packed columns of op(B)
  float* a_;  // packed rows of op(A)
  simd::TilePrefetch soon_;
};

[[maybe_unused]] void run_native(const PackedProduct<float>& p, int threads, std::byte* workspace) {
  const std::int64_t tiles = ceil_div(p.m, kTileRows) * ceil_div(p.n, kTileColumns);
  threads = omp_in_parallel() != 0 ? 1 : static_cast<int>(std::min<std::int64_t>(threads, tiles));
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const Grid grid = thread_grid(p, omp_get_num_threads());
    const int thread = omp_get_thread_num();
    if (thread < grid.rows * grid.columns) {
      const auto at = reinterpret_cast<std::uintptr_t>(workspace + thread * kPackedGemmBytesPerThread);
      Worker(p, part(p.m, kTileRows, grid.rows, thread / grid.columns),
             part(p.n, kTileColumns, grid.columns, thread % grid.columns),
             reinterpret_cast<float*>((at + 63) / 64 * 64))
          .run();
    }
  }
}

// The same through gemm(): for double, and for CPUs without a register tile.
template <class T>
void run_portable(const PackedProduct<T>& p, int threads) {
  gemm<T>(p.trans_a, p.trans_b, p.m, p.n, p.k, p.a, p.lda, p.b, p.ldb, p.beta, p.c, p.ldc);
  if (p.bias != nullptr || p.activated != nullptr) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (std::int64_t i = 0; i < p.m; ++i) {
      finish_rows<T>(p.activation, 1, p.n, p.bias, p.c + i * p.ldc, p.ldc,
                     p.activated ? p.activated + i * p.ldactivated : nullptr, p.ldactivated);
    }
  }
  T* const sums = p.row_sum_a != nullptr ? p.row_sum_a : p.column_sum_b;
  if (sums == nullptr) return;
  const T* const from = p.row_sum_a != nullptr ? p.a : p.b;
  const std::int64_t ld = p.row_sum_a != nullptr ? p.lda : p.ldb, width = p.row_sum_a != nullptr ? p.m : p.n;
  if (p.beta == T(0)) std::fill_n(sums, width, T(0));
  for (std::int64_t s = 0; s < p.k; ++s) {
    for (std::int64_t l = 0; l < width; ++l) sums[l] += from[s * ld + l];
  }
}

template <class T>
void check(const PackedProduct<T>& p, int threads, const std::byte* workspace) {
  require(p.m >= 0 && p.n >= 0 && p.k >= 1, ErrorKind::Internal, "packed_gemm: sizes {} x {} x {}", p.m, p.n, p.k);
  require(p.lda >= (p.trans_a ? p.m : p.k) && p.ldb >= (p.trans_b ? p.k : p.n) && p.ldc >= p.n, ErrorKind::Internal,
          "packed_gemm: leading dimensions {}, {}, {} are too short for {} x {} x {}", p.lda, p.ldb, p.ldc, p.m, p.n,
          p.k);
  require(p.beta == T(0) || p.beta == T(1), ErrorKind::Internal, "packed_gemm: beta is {}, not 0 or 1", p.beta);
  require(p.activated == nullptr || p.ldactivated >= p.n, ErrorKind::Internal,
          "packed_gemm: leading dimension {} of the activated result is below {}", p.ldactivated, p.n);
  require((p.row_sum_a == nullptr || p.trans_a) && (p.column_sum_b == nullptr || !p.trans_b) &&
              (p.row_sum_a == nullptr || p.column_sum_b == nullptr),
          ErrorKind::Internal, "packed_gemm: sums need a transposed A or an untransposed B, and one of them at most");
  require(threads >= 1 && workspace != nullptr, ErrorKind::Internal, "packed_gemm: {} threads, {} workspace", threads,
          workspace == nullptr ? "no" : "a");
}

}  // namespace

bool packed_gemm_is_native() { return simd::kHaveMicroKernel; }

template <class T>
void packed_gemm(const PackedProduct<T>& product, int threads, std::byte* workspace) {
  check(product, threads, workspace);
  if (product.m == 0 || product.n == 0) return;
  if constexpr (std::is_same_v<T, float> && simd::kHaveMicroKernel) {
    run_native(product, threads, workspace);
  } else {
    run_portable(product, threads);
  }
}

template void packed_gemm<float>(const PackedProduct<float>&, int, std::byte*);
template void packed_gemm<double>(const PackedProduct<double>&, int, std::byte*);

}  // namespace plimsoll
