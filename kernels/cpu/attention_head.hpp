#pragma once
// What forward and backward of attention share: the scratch of a thread, masks and dropout factors of a tile.

#include <limits>

#include "kernels/cpu/attention_tile.hpp"
#include "kernels/cpu/random.hpp"
#include "runtime/exec/kernel_table.hpp"

namespace plimsoll {

// Scratch regions by name (attention_scratch.hpp), of thread `thread`.
template <class T>
struct HeadScratch {
  HeadScratch(const AttentionScratch& s, std::byte* workspace, int thread)
      : base(reinterpret_cast<T*>(workspace) + thread * s.elements), at(s) {}
  T* operator[](std::int64_t AttentionScratch::*region) const { return base + at.*region; }
  simd::Integer<T>* segments(std::int64_t AttentionScratch::*region) const {
    return reinterpret_cast<simd::Integer<T>*>(base + at.*region);
  }
  T* base;
  const AttentionScratch& at;
};

// Copies segment ids of n tokens, padded; nothing without segments.
template <class T>
void pack_segments(const std::int32_t* from, std::int64_t n, simd::Integer<T>* to) {
  if (from == nullptr) return;
  std::copy(from, from + n, to);
  std::fill(to + n, to + pad_attention(n), simd::Integer<T>{0});
}

// A score that takes no part: far below every finite score, so that its exponential is exactly 0.
template <class T>
inline constexpr T kMasked = -std::numeric_limits<T>::max() / 2;

// Masks the scores of tile[keys, queries] whose key (at key_start + k) comes after its query (query_start + q) or,
// unless the segment ids are null, belongs to another segment.
template <class T>
void mask_tile(const tile::Tile& s, std::int64_t key_start, std::int64_t query_start,
               const simd::Integer<T>* key_segments, const simd::Integer<T>* query_segments, T* scores) {
  using I = simd::Integer<T>;
  const bool causal = key_start + s.keys - 1 > query_start;
  if (!causal && key_segments == nullptr) return;
  simd::Vector<I> lane{};
  for (std::int64_t i = 0; i < simd::kLanes<T>; ++i) lane[i] = static_cast<I>(i);
  const simd::Vector<T> masked = simd::Vector<T>{} + kMasked<T>;
  for (std::int64_t q = 0; q < s.queries; q += simd::kLanes<T>) {
    const simd::Vector<I> query = lane + static_cast<I>(query_start + q - key_start);
    for (std::int64_t k = 0; k < s.keys_before(q + simd::kLanes<T>); ++k) {
      simd::Vector<T>& score = simd::at(scores + k * kAttentionTile + q);
      score = query < static_cast<I>(k) ? masked : score;
      if (key_segments != nullptr) score = simd::at(query_segments + q) != key_segments[k] ? masked : score;
    }
  }
}

// Calls f(offset) for each vector of the tile that is in use.
template <class T, class F>
void for_each_vector(const tile::Tile& s, F f) {
  for (std::int64_t q = 0; q < s.queries; q += simd::kLanes<T>) {
    const std::int64_t keys = s.keys_before(q + simd::kLanes<T>);
    for (std::int64_t k = 0; k < keys; ++k) f(k * kAttentionTile + q);
  }
}

// Where a head's dropout numbers lie: the pair (query, key) has index `first + query · keys + key`.
struct DropoutCounter {
  std::uint64_t seed, site, first, keys;
  std::uint32_t threshold;
  double kept;  // 1 / (1 - p)
};

// factors[k, q] = 0 for a dropped pair, else 1 / (1 - p); 0 where padded. Pairs above the diagonal are not looked at.
template <class T>
void dropout_factors(const tile::Tile& s, const DropoutCounter& d, std::int64_t key_start, std::int64_t query_start,
                     T* factors) {
  for (std::int64_t k = 0; k < s.keys; ++k) std::fill_n(factors + k * kAttentionTile, s.queries, T(0));
  const auto length = static_cast<std::int64_t>(d.keys);
  const std::int64_t queries = std::min(s.queries, length - query_start);
  for (std::int64_t q = 0; q < queries; ++q) {
    const std::int64_t keys = std::min(s.keys, query_start + q + 1 - key_start);
    const std::uint64_t row = d.first + static_cast<std::uint64_t>((query_start + q) * length + key_start);
    for_random_bits(d.seed, d.site, row, keys, [&](std::int64_t k, const std::uint32_t* bits, std::int64_t n) {
      T* to = factors + k * kAttentionTile + q;
      for (std::int64_t i = 0; i < n; ++i)
        to[i * kAttentionTile] = bits[i] < d.threshold ? T(0) : static_cast<T>(d.kept);
    });
  }
}

// Of head `head` of sample `b` (rows of this micro-batch); `length` tokens.
inline DropoutCounter dropout_counter(const Attention::Attrs& a, const StepInputs& in, std::int64_t b, int head,
                                      std::int64_t length) {
  const auto t = static_cast<std::uint64_t>(length);
  const std::uint64_t row = (in.first_sample + static_cast<std::uint64_t>(b)) *
                                static_cast<std::uint64_t>(a.all_heads > 0 ? a.all_heads : a.layout.heads) +
                            static_cast<std::uint64_t>(a.first_head + head);
  return {in.seed, a.site, row * t * t, t, dropout_threshold(a.dropout), 1 / (1 - a.dropout)};
}

void add_attention_backward_kernels(KernelTable& table);

}  // namespace plimsoll
