#pragma once
// The innermost loops of packed_gemm: one register tile of C, and the packing of its operands. For AVX-512 and AVX2
// with FMA; kHaveMicroKernel says whether this build has them.
//
// A tile is kTileRows x kTileColumns of C. It holds 24 (AVX-512) or 12 (AVX2) accumulators, which leaves registers for
// one row of B and one element of A: each step of k issues that many FMAs and fewer loads than the core can serve.

#include <array>
#include <cstdint>
#include <utility>

namespace plimsoll::simd {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

// A register of floats; Unaligned is the same at any float address.
using Vector [[gnu::vector_size(kLanes * 4)]] = float;
using Unaligned [[gnu::vector_size(kLanes * 4), gnu::aligned(4), gnu::may_alias]] = float;

inline Vector load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }
inline Vector broadcast(float x) { return x - Vector{}; }

#if defined(__AVX512F__)
inline constexpr bool kHaveMicroKernel = true;
inline constexpr int kTileRows = 8, kTileVectors = 3;
#elif defined(__AVX2__) && defined(__FMA__)
inline constexpr bool kHaveMicroKernel = true;
inline constexpr int kTileRows = 6, kTileVectors = 2;
#else
inline constexpr bool kHaveMicroKernel = false;
inline constexpr int kTileRows = 4, kTileVectors = 1;
#endif
inline constexpr int kTileColumns = kTileVectors * kLanes;

// Memory that is read soon after the present tile: `left` cache lines, in rows of `lines` lines that lie `stride`
// floats apart. Some are prefetched to L2 in each part of a tile: a burst of them would hold up the loads of packed B.
struct Stream {
  const float* row = nullptr;
  std::int64_t stride = 0;
  int lines = 0;
  std::int64_t left = 0;
  int per_part = 0;
  int line = 0;
  void issue() {
    for (int i = 0; i < per_part && left > 0; ++i, --left) {
      __builtin_prefetch(row + line * 16, 0, 2);
      if (++line == lines) {
        line = 0;
        row += stride;
      }
    }
  }
};

struct TilePrefetch {
  Stream a, b;
  const float* out = nullptr;  // a second result that will be written beside this tile, rows of ldout
  std::int64_t ldout = 0;
};

// C[kTileRows, kTileColumns] = or += A · B over k steps. B is packed: k rows of kTileColumns. Element (i, p) of A lies
// at a[i * lda + p], or, packed, at a[p * kTileRows + i].
// With kPackB, B still lies in rows of ldb, and its k rows are left in `packed` for the tiles that follow: the stores
// hide between the FMAs. Otherwise ldb and packed are not used.
template <bool kPackedA, bool kAdd, bool kPackB>
[[gnu::noinline]] void tile_product(std::int64_t k, const float* __restrict a, std::int64_t lda,
                                    const float* __restrict b, std::int64_t ldb, float* __restrict packed,
                                    float* __restrict c, std::int64_t ldc, TilePrefetch& soon) {
  Vector sum[kTileRows][kTileVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kTileVectors; ++j) sum[i][j] = Vector{};
  }
  for (int part = 0; part < kTileRows; ++part) {
    for (int j = 0; j < kTileColumns; j += 16) __builtin_prefetch(c + part * ldc + j, 1);
    for (int j = 0; soon.out != nullptr && j < kTileColumns; j += 16) {
      __builtin_prefetch(soon.out + part * soon.ldout + j, 1);
    }
    soon.a.issue();
    soon.b.issue();
    for (std::int64_t steps = k * (part + 1) / kTileRows - k * part / kTileRows; steps > 0; --steps) {
      Vector row[kTileVectors];
#pragma GCC unroll 16
      for (int j = 0; j < kTileVectors; ++j) {
        row[j] = load(b + j * kLanes);
        if (kPackB) store(packed + j * kLanes, row[j]);
      }
#pragma GCC unroll 16
      for (int i = 0; i < kTileRows; ++i) {
        const Vector factor = broadcast(kPackedA ? a[i] : a[i * lda]);
#pragma GCC unroll 16
        for (int j = 0; j < kTileVectors; ++j) sum[i][j] += factor * row[j];
      }
      b += kPackB ? ldb : kTileColumns;
      if (kPackB) packed += kTileColumns;
      a += kPackedA ? kTileRows : 1;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kTileVectors; ++j) {
      float* at = c + i * ldc + j * kLanes;
      store(at, kAdd ? load(at) + sum[i][j] : sum[i][j]);
    }
  }
}

// Transposes the kLanes x kLanes matrix whose rows are r: log2(kLanes) perfect shuffles of its two halves.
inline void transpose(std::array<Vector, kLanes>& r) {
  const auto interleave = []<int... l>(Vector x, Vector y, std::integer_sequence<int, l...>) {
    constexpr int kHalf = kLanes / 2;
    return std::array<Vector, 2>{__builtin_shufflevector(x, y, (l / 2 + (l % 2) * kLanes)...),
                                 __builtin_shufflevector(x, y, (kHalf + l / 2 + (l % 2) * kLanes)...)};
  };
#pragma GCC unroll 4
  for (int stage = 1; stage < kLanes; stage *= 2) {
    std::array<Vector, kLanes> next;
#pragma GCC unroll 16
    for (int i = 0; i < kLanes / 2; ++i) {
      const auto [low, high] = interleave(r[i], r[i + kLanes / 2], std::make_integer_sequence<int, kLanes>{});
      next[2 * i] = low;
      next[2 * i + 1] = high;
    }
    r = next;
  }
}

// Packs `width` <= kTileColumns columns of op(B), k rows of it, into k rows of kTileColumns, zero-padded.
// b points at the first element as stored: [k, width] rows of ldb, or [width, k] rows of ldb.
inline void pack_columns(std::int64_t k, int width, const float* __restrict b, std::int64_t ldb,
                         float* __restrict packed) {
  if (width == kTileColumns) {
    for (std::int64_t p = 0; p < k; ++p) {
#pragma GCC unroll 16
      for (int j = 0; j < kTileVectors; ++j)
        store(packed + p * kTileColumns + j * kLanes, load(b + p * ldb + j * kLanes));
    }
    return;
  }
  for (std::int64_t p = 0; p < k; ++p) {
    for (int j = 0; j < kTileColumns; ++j) packed[p * kTileColumns + j] = j < width ? b[p * ldb + j] : 0.0F;
  }
}

inline void pack_columns_transposed(std::int64_t k, int width, const float* __restrict b, std::int64_t ldb,
                                    float* __restrict packed) {
  const std::int64_t whole = width == kTileColumns ? k / kLanes * kLanes : 0;
  for (std::int64_t p = 0; p < whole; p += kLanes) {
    for (int j = 0; j < kTileVectors; ++j) {
      std::array<Vector, kLanes> square;
#pragma GCC unroll 16
      for (int l = 0; l < kLanes; ++l) square[static_cast<std::size_t>(l)] = load(b + (j * kLanes + l) * ldb + p);
      transpose(square);
#pragma GCC unroll 16
      for (int l = 0; l < kLanes; ++l) {
        store(packed + (p + l) * kTileColumns + j * kLanes, square[static_cast<std::size_t>(l)]);
      }
    }
  }
  for (std::int64_t p = whole; p < k; ++p) {
    for (int j = 0; j < kTileColumns; ++j) packed[p * kTileColumns + j] = j < width ? b[j * ldb + p] : 0.0F;
  }
}

// Packs `height` columns of A as stored ([k, height], rows of lda), that is rows of its transpose, into slivers of
// kTileRows: sliver s holds k steps of rows s * kTileRows and up; the last one is zero-padded.
inline void pack_rows_transposed(std::int64_t k, std::int64_t height, const float* __restrict a, std::int64_t lda,
                                 float* __restrict packed) {
  constexpr std::int64_t kSteps = 8;  // whole cache lines of each sliver: slivers lie a power of two apart
  const std::int64_t whole = height / kTileRows;
  for (std::int64_t begin = 0; begin < k; begin += kSteps) {
    const std::int64_t end = begin + kSteps < k ? begin + kSteps : k;
    for (std::int64_t s = 0; s < whole; ++s) {
      for (std::int64_t p = begin; p < end; ++p) {
#pragma GCC unroll 8
        for (int i = 0; i < kTileRows; ++i) packed[(s * k + p) * kTileRows + i] = a[p * lda + s * kTileRows + i];
      }
    }
    if (whole * kTileRows == height) continue;
    for (std::int64_t p = begin; p < end; ++p) {
      for (int i = 0; i < kTileRows; ++i) {
        const std::int64_t row = whole * kTileRows + i;
        packed[(whole * k + p) * kTileRows + i] = row < height ? a[p * lda + row] : 0.0F;
      }
    }
  }
}

}  // namespace plimsoll::simd
