#pragma once
// The scratch memory of one thread of the attention kernels: offsets in elements of the compute dtype, from a 64-byte
// boundary, every region on one. The declaration plans it and the kernels carve it, from this one description.

#include <cstdint>

#include "runtime/ops/attention.hpp"

namespace plimsoll {

inline constexpr std::int64_t kAttentionTile = 64;  // queries, and keys, of a tile
inline constexpr std::int64_t kAttentionPad = 16;   // tails are padded to multiples of this

constexpr std::int64_t pad_attention(std::int64_t n) { return (n + kAttentionPad - 1) / kAttentionPad * kAttentionPad; }

struct AttentionScratch {
  // `longest` is the number of keys of the longest sequence. `backward` adds what InputGrad needs.
  AttentionScratch(const HeadLayout& layout, std::int64_t longest, bool backward, bool dropout)
      : width(pad_attention(layout.head_dim)) {
    const std::int64_t all_keys = pad_attention(longest) * width, rows = kAttentionTile * width;
    const std::int64_t square = kAttentionTile * kAttentionTile;
    // What not every call writes comes first, so that the high-water mark of the arena reaches the end.
    key_segments = take(pad_attention(longest)), query_segments = take(kAttentionTile);
    row_a = take(kAttentionTile), row_b = take(kAttentionTile), row_c = take(kAttentionTile);
    keys = take(all_keys), values = take(all_keys);
    queries = take(rows), queries_t = take(rows), result = take(rows), scores = take(square);
    if (dropout) factors = take(square);
    if (!backward) return;
    gradient = take(rows), gradient_t = take(rows), score_gradient = take(square);
    key_gradient = take(all_keys), value_gradient = take(all_keys);
  }

  std::int64_t width;                                             // head_dim, padded: length of a packed row
  std::int64_t keys = 0, values = 0, key_segments = 0;            // [padded keys, width]; [padded keys]
  std::int64_t queries = 0, queries_t = 0, result = 0;            // [tile, width]; [width, tile]; [tile, width]
  std::int64_t scores = 0;                                        // [tile of keys, tile of queries]
  std::int64_t row_a = 0, row_b = 0, row_c = 0;                   // [tile], per query
  std::int64_t query_segments = 0;                                // [tile]
  std::int64_t factors = 0;                                       // dropout: as scores
  std::int64_t key_gradient = 0, value_gradient = 0;              // as keys
  std::int64_t gradient = 0, gradient_t = 0, score_gradient = 0;  // of the output, as queries, queries_t; as scores
  std::int64_t elements = 0;                                      // of one thread

 private:
  std::int64_t take(std::int64_t n) {
    const std::int64_t at = elements;
    elements += pad_attention(n);
    return at;
  }
};

}  // namespace plimsoll
