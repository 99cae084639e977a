#include "kernels/cpu/xsmm_gemm.hpp"

#include <libxsmm.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <memory>
#include <type_traits>

#include "kernels/cpu/gemm_grid.hpp"
#include "kernels/cpu/pack.hpp"
#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kDepth = 768;  // of a tile, which then fills a fifth of a cache of 1 MiB

// The tile of the calling thread.
float* tile_buffer() {
  struct Tile {
    alignas(64) std::array<float, kTileColumns * kDepth> elements;
  };
  thread_local const auto tile = std::make_unique<Tile>();
  return tile->elements.data();
}

// Whether tiles of B are copied together: where it is transposed, and where the distance of its rows puts them into few
// sets of the first cache.
bool packs(const GemmArguments<float>& p) {
  constexpr std::int64_t kFewSets = 1024 / sizeof(float);
  return p.trans_b || p.ldb % kFewSets == 0;
}

// Tile of rows [k, k + depth) and columns [j, j + columns) of op(B), rows kTileColumns apart.
void pack(const GemmArguments<float>& p, std::int64_t k, std::int64_t depth, std::int64_t j, std::int64_t columns,
          float* tile) {
  if (p.trans_b) {
    return pack_words<true>(WidenedWords<float>{p.b + j * p.ldb + k, p.ldb}, columns, depth, tile, kTileColumns);
  }
  for (std::int64_t l = 0; l < depth; ++l) std::copy_n(p.b + (k + l) * p.ldb + j, columns, tile + l * kTileColumns);
}

// libxsmm counts in columns: its m are the columns of the tile, its A is the tile and its B our A.
template <class T>
auto kernel_for(const XsmmTile<T>& t, std::int64_t rows) {
  const int lda = static_cast<int>(t.tile_stride), ldb = static_cast<int>(t.lda), ldc = static_cast<int>(t.ldc);
  const int m = static_cast<int>(t.columns), n = static_cast<int>(rows), k = static_cast<int>(t.depth);
  const float alpha = 1, beta = t.beta;
  const int flags = std::is_same_v<T, bf16> ? LIBXSMM_GEMM_FLAG_VNNI_A : LIBXSMM_GEMM_FLAG_NONE,
            prefetch = LIBXSMM_PREFETCH_NONE;
  const auto dispatch = [] {
    if constexpr (std::is_same_v<T, bf16>)
      return libxsmm_bsmmdispatch;
    else
      return libxsmm_smmdispatch;
  }();
  auto* kernel = dispatch(m, n, k, &lda, &ldb, &ldc, &alpha, &beta, &flags, &prefetch);
  require(kernel != nullptr, ErrorKind::Internal, "libxsmm has no kernel for {} x {} x {}, rows {} and {} apart", n, m,
          k, ldb, ldc);
  return kernel;
}

// The block of C, tile by tile.
void multiply(const GemmArguments<float>& p, const GemmBlock& block, const GemmEpilogue& epilogue) {
  const std::int64_t depth = ceil_div(p.k, ceil_div(p.k, kDepth)), rows = block.row_end - block.row;
  for (std::int64_t k = 0; k < p.k; k += depth) {
    const std::int64_t here = std::min(depth, p.k - k);
    const float beta = k == 0 ? p.beta : 1.0F;
    for (std::int64_t j = block.column; j < block.column_end; j += kTileColumns) {
      const std::int64_t columns = std::min(kTileColumns, block.column_end - j);
      const float* tile = p.b + k * p.ldb + j;
      if (packs(p)) {
        pack(p, k, here, j, columns, tile_buffer());
        tile = tile_buffer();
      }
      xsmm_multiply(XsmmTile<float>{rows, columns, here, p.a + block.row * p.lda + k, p.lda, tile,
                                    packs(p) ? kTileColumns : p.ldb, p.c + block.row * p.ldc + j, p.ldc, beta});
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
  for_gemm_shares(p.m, p.n, p.k, threads, [&](const GemmBlock& share) { multiply(p, share, epilogue); });
}

bool xsmm_multiplies(DType dtype) {
  static const bool pairs = libxsmm_get_target_archid() >= LIBXSMM_X86_AVX512_CPX;
  return dtype == DType::bf16 ? pairs : dtype == DType::f32 && has_avx512();
}

template <class T>
void xsmm_multiply(const XsmmTile<T>& t) {
  using Libxsmm = std::conditional_t<std::is_same_v<T, bf16>, libxsmm_bfloat16, float>;
  const auto* tile = reinterpret_cast<const Libxsmm*>(t.tile);
  const auto run = [&](auto* kernel, std::int64_t i) {
    kernel(tile, reinterpret_cast<const Libxsmm*>(t.a + i * t.lda), t.c + i * t.ldc);
  };
  std::int64_t i = 0;
  if (kTileRows <= t.rows) {
    auto* kernel = kernel_for(t, kTileRows);
    for (; i + kTileRows <= t.rows; i += kTileRows) run(kernel, i);
  }
  if (i < t.rows) run(kernel_for(t, t.rows - i), i);
}

template void xsmm_multiply<float>(const XsmmTile<float>&);
template void xsmm_multiply<bf16>(const XsmmTile<bf16>&);

std::string xsmm_description() {
  if (!has_avx512()) return "";
  return fmt::format("libxsmm {}.{} {}", LIBXSMM_VERSION_MAJOR, LIBXSMM_VERSION_MINOR, libxsmm_get_target_arch());
}

}  // namespace plimsoll
