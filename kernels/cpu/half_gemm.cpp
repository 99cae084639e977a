#include "kernels/cpu/half_gemm.hpp"

#include <array>
#include <memory>
#include <type_traits>

#include "kernels/cpu/gemm_arguments.hpp"
#include "kernels/cpu/gemm_grid.hpp"
#include "kernels/cpu/pack.hpp"
#include "kernels/cpu/tile_product.hpp"
#ifdef PLIMSOLL_HAVE_LIBXSMM
#include "kernels/cpu/xsmm_gemm.hpp"
#endif

namespace plimsoll {
namespace {

constexpr std::int64_t kDepth = 384;  // words of a tile of B
// Rows of C at a time, and as many columns as then fill `sums`. Where A is read in place, a tile of B serves many rows;
// where A is packed, it serves several tiles of B.
constexpr std::int64_t kRowsInPlace = 768, kRowsPacked = 192, kSums = kRowsInPlace * kTileColumns;

// Of a thread: together they leave half of a cache of 1 MiB.
struct Buffers {
  alignas(64) std::array<float, kDepth * kTileColumns> tile;
  alignas(64) std::array<float, kRowsPacked * kDepth> rows;
  alignas(64) std::array<float, kSums> sums;
};
Buffers& buffers() {
  thread_local const auto mine = std::make_unique<Buffers>();
  return *mine;
}

// Who multiplies.
enum class By { Pairs, Floats, Tiles };

template <class T>
By chosen() {
#ifdef PLIMSOLL_HAVE_LIBXSMM
  if (products_by_libxsmm()) {
    if (std::is_same_v<T, bf16> && xsmm_multiplies(DType::bf16)) return By::Pairs;
    if (xsmm_multiplies(DType::f32)) return By::Floats;
  }
#endif
  return By::Tiles;
}

// The elements of words of A or B: `across` where depth runs down the rows of the matrix as it is stored. Then `lines`
// elements of each row are wanted, else `depth` of each of `lines` rows.
template <class T>
struct Panel {
  const T* from;
  std::int64_t stride, lines, depth;
  bool across;
};

// to[line][word], or with kByWord to[word][line].
template <bool kPairs, bool kByWord, class T>
void pack_panel(const Panel<T>& p, std::int64_t words, float* to, std::int64_t stride) {
  if constexpr (kPairs) {
    if (p.across) return pack_words<!kByWord>(PairsOfRows(p.from, p.stride, p.depth), words, p.lines, to, stride);
    pack_words<kByWord>(PairsInRows(p.from, p.stride, p.depth), p.lines, words, to, stride);
  } else {
    if (p.across) return pack_words<!kByWord>(WidenedWords<T>{p.from, p.stride}, words, p.lines, to, stride);
    pack_words<kByWord>(WidenedWords<T>{p.from, p.stride}, p.lines, words, to, stride);
  }
}

// One share of C.
template <class T, bool kPairs>
class Share {
 public:
  Share(const GemmOperands<T>& p, By by, const SumsReader& reader)
      : p_(p),
        by_(by),
        reader_(reader),
        in_place_(kPairs && !p.trans_a && p.k % kElements == 0 && p.lda % kElements == 0 && p.lda < kMostStride),
        rows_(in_place_ ? kRowsInPlace : kRowsPacked),
        columns_(kSums / rows_) {
    const std::int64_t words = ceil_div(p.k, kElements);
    depth_ = kElements * ceil_div(words, std::max<std::int64_t>(1, ceil_div(words, kDepth)));
  }

  void multiply(const GemmBlock& share) const {
    for (std::int64_t i = share.row; i < share.row_end; i += rows_) {
      for (std::int64_t j = share.column; j < share.column_end; j += columns_) {
        const GemmBlock block{i, std::min(i + rows_, share.row_end), j, std::min(j + columns_, share.column_end)};
        if (p_.k == 0) buffers_.sums.fill(0);
        for (std::int64_t k = 0; k < p_.k; k += depth_) add_panel(block, k, std::min(depth_, p_.k - k));
        reader_(block, buffers_.sums.data(), columns_);
      }
    }
  }

 private:
  static constexpr std::int64_t kElements = kPairs ? 2 : 1;  // of a word
  static constexpr std::int64_t kMostStride = std::int64_t{1} << 30;

  // The sums of the block, over depth [k, k + depth); those of k = 0 begin them.
  void add_panel(const GemmBlock& block, std::int64_t k, std::int64_t depth) const {
    const std::int64_t words = ceil_div(depth, kElements), rows = block.row_end - block.row;
    const T* a = p_.a + (p_.trans_a ? k * p_.lda + block.row : block.row * p_.lda + k);
    if (!in_place_)
      pack_panel<kPairs, false>(Panel<T>{a, p_.lda, rows, depth, p_.trans_a}, words, rows_buffer(), kDepth);
    for (std::int64_t j = block.column; j < block.column_end; j += kTileColumns) {
      const std::int64_t columns = std::min(kTileColumns, block.column_end - j);
      const T* b = p_.b + (p_.trans_b ? j * p_.ldb + k : k * p_.ldb + j);
      float* tile = buffers_.tile.data();
      if (columns < kTileColumns) std::fill_n(tile, words * kTileColumns, 0.0F);
      pack_panel<kPairs, true>(Panel<T>{b, p_.ldb, columns, depth, !p_.trans_b}, words, tile, kTileColumns);
      multiply_tile(rows, words, a, k > 0, buffers_.sums.data() + (j - block.column));
    }
  }

  void multiply_tile(std::int64_t rows, std::int64_t words, [[maybe_unused]] const T* a, bool add, float* sums) const {
    const float *tile = buffers_.tile.data(), *packed = rows_buffer();
#ifdef PLIMSOLL_HAVE_LIBXSMM
    const float beta = add ? 1.0F : 0.0F;
    if constexpr (kPairs) {
      const bf16* from = in_place_ ? a : reinterpret_cast<const bf16*>(packed);
      const std::int64_t lda = in_place_ ? p_.lda : 2 * kDepth;
      return xsmm_multiply<bf16>({rows, kTileColumns, 2 * words, from, lda, tile, kTileColumns, sums, columns_, beta});
    }
    if (by_ == By::Floats) {
      return xsmm_multiply<float>(
          {rows, kTileColumns, words, packed, kDepth, tile, kTileColumns, sums, columns_, beta});
    }
#endif
    const tile::Left<float> left{packed, kDepth, 1};
    if (add)
      tile::product<true>(rows, kTileColumns, words, left, tile, kTileColumns, sums, columns_);
    else
      tile::product<false>(rows, kTileColumns, words, left, tile, kTileColumns, sums, columns_);
  }

  float* rows_buffer() const { return buffers_.rows.data(); }

  const GemmOperands<T>& p_;
  const By by_;
  const SumsReader& reader_;
  const bool in_place_;
  const std::int64_t rows_, columns_;
  std::int64_t depth_;
  Buffers& buffers_ = buffers();
};

template <class T, bool kPairs>
void multiply_shares(const GemmOperands<T>& p, By by, const SumsReader& reader) {
  for_gemm_shares(p.m, p.n, p.k, omp_get_max_threads(),
                  [&](const GemmBlock& share) { Share<T, kPairs>(p, by, reader).multiply(share); });
}

}  // namespace

template <class T>
void half_gemm(const GemmOperands<T>& p, const SumsReader& reader) {
  check_product(p.trans_a, p.trans_b, p.m, p.n, p.k, p.lda, p.ldb);
  if (p.m == 0 || p.n == 0) return;
  const By by = chosen<T>();
  if constexpr (std::is_same_v<T, bf16>) {
    if (by == By::Pairs) return multiply_shares<T, true>(p, by, reader);
  }
  multiply_shares<T, false>(p, by, reader);
}

template void half_gemm<bf16>(const GemmOperands<bf16>&, const SumsReader&);
template void half_gemm<f16>(const GemmOperands<f16>&, const SumsReader&);

}  // namespace plimsoll
