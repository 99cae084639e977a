#pragma once
// The scratch memory of one thread of the attention kernels: offsets in elements of the compute dtype, from a 64-byte
// boundary, every region on one. The declaration plans it and the kernels carve it, from this one description.

#include <cstdint>

#include "runtime/ops/attention.hpp"

namespace plimsoll {

inline constexpr std::int64_t kAttentionTile = 64;  // queries, and keys, of a tile
inline constexpr std::int64_t kAttentionPad = 16;   // tails are padded to multiples of this

constexpr std::int64_t pad_attention(std::int64_t n) { return (n + kAttentionPad - 1) / kAttentionPad * kAttentionPad; }

// How many threads have work, when a unit (a head of a sample) is that of one thread.
constexpr int attention_threads(int threads, std::int64_t units) {
  return units < threads ? static_cast<int>(units) : threads;
}

struct AttentionScratch {
  // `count` queries and at most `longest` keys of a sequence. `backward` adds what InputGrad needs.
  AttentionScratch(const HeadLayout& layout, std::int64_t count, std::int64_t longest, bool backward, bool dropout)
      : width(pad_attention(layout.head_dim)) {
    const std::int64_t tile = tile_of(count), all_keys = pad_attention(longest) * width, rows = tile * width;
    // Rows of kAttentionTile, whose tails beyond the queries nobody touches.
    const std::int64_t columns = (width - 1) * kAttentionTile + tile;
    const std::int64_t square = (tile_of(longest) - 1) * kAttentionTile + tile;
    // What not every call writes comes first (segment ids; what depends on the number of cached keys), so that the
    // high-water mark of the arena reaches the end.
    key_segments = take(pad_attention(longest)), query_segments = take(tile);
    row_a = take(tile), row_b = take(tile), row_c = take(tile);
    keys = take(all_keys), values = take(all_keys), scores = take(square);
    if (dropout) factors = take(square);
    queries = take(rows), queries_t = take(columns), result = take(rows);
    if (!backward) return;
    gradient = take(rows), gradient_t = take(columns), score_gradient = take(square);
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
  static std::int64_t tile_of(std::int64_t n) { return n < kAttentionTile ? pad_attention(n) : kAttentionTile; }
  std::int64_t take(std::int64_t n) {
    const std::int64_t at = elements;
    elements += pad_attention(n);
    return at;
  }
};

}  // namespace plimsoll
