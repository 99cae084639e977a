#include "kernels/cpu/xsmm_gemm.hpp"

#include <libxsmm.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <memory>

#include "kernels/cpu/simd.hpp"
#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kColumns = 64;  // of a tile: four vectors
constexpr std::int64_t kDepth = 768;   // of a tile, which then fills a fifth of a cache of 1 MiB
// Rows that one call multiplies, from a multiple of it on: kernels differ in the order of sums where a call has fewer
// rows or columns. A multiple of the six rows that a kernel holds in registers beside a tile's columns.
constexpr std::int64_t kRows = 48;

std::int64_t ceil_div(std::int64_t x, std::int64_t y) { return (x + y - 1) / y; }

// A grid of threads over C, such that the largest share takes the least time; packing an element takes about as long as
// kPacking multiplications with it.
class Grid {
 public:
  Grid(const GemmArguments<float>& p, int threads) : m_(p.m), n_(p.n) {
    constexpr std::int64_t kPacking = 24;
    std::int64_t least = -1;
    for (int across = 1; across <= threads; ++across) {
      if (threads % across != 0) continue;
      const std::int64_t rows = ceil_div(ceil_div(m_, kRows), threads / across) * kRows;
      const std::int64_t columns = ceil_div(ceil_div(n_, kColumns), across) * kColumns;
      const std::int64_t cost = (rows + kPacking) * columns;
      if (least >= 0 && cost >= least) continue;
      least = cost;
      rows_ = rows;
      columns_ = columns;
      across_ = across;
    }
  }
  GemmBlock operator[](int thread) const {
    const std::int64_t i = thread / across_, j = thread % across_;
    return {std::min(m_, i * rows_), std::min(m_, (i + 1) * rows_), std::min(n_, j * columns_),
            std::min(n_, (j + 1) * columns_)};
  }

 private:
  std::int64_t m_, n_, rows_ = 0, columns_ = 0;
  int across_ = 1;
};

// The tile of the calling thread.
float* tile_buffer() {
  struct Tile {
    alignas(64) std::array<float, kColumns * kDepth> elements;
  };
  thread_local const auto tile = std::make_unique<Tile>();
  return tile->elements.data();
}

// to[j][i] = from[i][j] for i below `rows` and j below `columns`; strides are those of rows.
void transpose(const float* from, std::int64_t stride, std::int64_t rows, std::int64_t columns, float* to,
               std::int64_t to_stride) {
  constexpr std::int64_t kSide = simd::Square::kSide;
  for (std::int64_t i = 0; i < rows; i += kSide) {
    for (std::int64_t j = 0; j < columns; j += kSide) {
      if (i + kSide <= rows && j + kSide <= columns) {
        simd::Square square;
        for (std::int64_t l = 0; l < kSide; ++l) square.row[l] = simd::load(from + (i + l) * stride + j);
        simd::transpose(square);
        for (std::int64_t l = 0; l < kSide; ++l) simd::store(to + (j + l) * to_stride + i, square.row[l]);
        continue;
      }
      for (std::int64_t y = i; y < std::min(i + kSide, rows); ++y) {
        for (std::int64_t x = j; x < std::min(j + kSide, columns); ++x) to[x * to_stride + y] = from[y * stride + x];
      }
    }
  }
}

// Whether tiles of B are copied together: where it is transposed, and where the distance of its rows puts them into few
// sets of the first cache.
bool packs(const GemmArguments<float>& p) {
  constexpr std::int64_t kFewSets = 1024 / sizeof(float);
  return p.trans_b || p.ldb % kFewSets == 0;
}

// Tile of rows [k, k + depth) and columns [j, j + columns) of op(B), rows kColumns apart.
void pack(const GemmArguments<float>& p, std::int64_t k, std::int64_t depth, std::int64_t j, std::int64_t columns,
          float* tile) {
  if (p.trans_b) return transpose(p.b + j * p.ldb + k, p.ldb, columns, depth, tile, kColumns);
  for (std::int64_t l = 0; l < depth; ++l) std::copy_n(p.b + (k + l) * p.ldb + j, columns, tile + l * kColumns);
}

// Of `rows` rows of A, `depth` of its columns, with a tile. libxsmm counts in columns: its m are the columns of the
// tile, its A is the tile and its B our A.
libxsmm_smmfunction kernel_for(const GemmArguments<float>& p, std::int64_t rows, std::int64_t columns,
                               std::int64_t depth, float beta) {
  const int lda = static_cast<int>(packs(p) ? kColumns : p.ldb), ldb = static_cast<int>(p.lda),
            ldc = static_cast<int>(p.ldc);
  const float alpha = 1;
  const int flags = LIBXSMM_GEMM_FLAG_NONE, prefetch = LIBXSMM_PREFETCH_NONE;
  auto* kernel = libxsmm_smmdispatch(static_cast<int>(columns), static_cast<int>(rows), static_cast<int>(depth), &lda,
                                     &ldb, &ldc, &alpha, &beta, &flags, &prefetch);
  require(kernel != nullptr, ErrorKind::Internal, "libxsmm has no kernel for {} x {} x {}, rows {} and {} apart", rows,
          columns, depth, ldb, ldc);
  return kernel;
}

// The block of C, tile by tile.
void multiply(const GemmArguments<float>& p, const GemmBlock& block, const GemmEpilogue& epilogue) {
  const std::int64_t depth = ceil_div(p.k, ceil_div(p.k, kDepth)), last_rows = (block.row_end - block.row) % kRows;
  for (std::int64_t k = 0; k < p.k; k += depth) {
    const std::int64_t here = std::min(depth, p.k - k);
    const float beta = k == 0 ? p.beta : 1.0F;
    for (std::int64_t j = block.column; j < block.column_end; j += kColumns) {
      const std::int64_t columns = std::min(kColumns, block.column_end - j);
      const float* tile = p.b + k * p.ldb + j;
      if (packs(p)) {
        pack(p, k, here, j, columns, tile_buffer());
        tile = tile_buffer();
      }
      std::int64_t i = block.row;
      if (i + kRows <= block.row_end) {
        const auto kernel = kernel_for(p, kRows, columns, here, beta);
        for (; i + kRows <= block.row_end; i += kRows) kernel(tile, p.a + i * p.lda + k, p.c + i * p.ldc + j);
      }
      if (last_rows > 0) {
        kernel_for(p, last_rows, columns, here, beta)(tile, p.a + i * p.lda + k, p.c + i * p.ldc + j);
      }
      if (k + here == p.k && epilogue) epilogue({block.row, block.row_end, j, j + columns});
    }
  }
}

bool has_avx512() {
  static const bool has = libxsmm_get_target_archid() >= LIBXSMM_X86_AVX512_CORE;
  return has;
}

}  // namespace

bool xsmm_takes(const GemmArguments<float>& p) {
  constexpr std::int64_t kLeastRows = 16, kMostStride = std::int64_t{1} << 30;
  return has_avx512() && !p.trans_a && p.m >= kLeastRows && std::max({p.lda, p.ldb, p.ldc}) < kMostStride &&
         (p.beta == 0 || p.beta == 1);
}

void xsmm_gemm(const GemmArguments<float>& p, int threads, const GemmEpilogue& epilogue) {
  constexpr std::int64_t kThreadWork = 1 << 18;  // multiplications for which it pays to wake a thread
  const auto used = static_cast<int>(std::min<std::int64_t>(threads, 1 + p.m * p.n * p.k / kThreadWork));
  if (used == 1 || omp_in_parallel()) return multiply(p, {0, p.m, 0, p.n}, epilogue);
  const Grid grid(p, used);
#pragma omp parallel num_threads(used)
  for (int i = omp_get_thread_num(); i < used; i += omp_get_num_threads()) {
    if (const GemmBlock block = grid[i]; block.row < block.row_end && block.column < block.column_end) {
      multiply(p, block, epilogue);
    }
  }
}

std::string xsmm_description() {
  if (!has_avx512()) return "";
  return fmt::format("libxsmm {}.{} {}", LIBXSMM_VERSION_MAJOR, LIBXSMM_VERSION_MINOR, libxsmm_get_target_arch());
}

}  // namespace plimsoll
