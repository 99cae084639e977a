#pragma once
// What the fused attention of a GPU needs beside its operands; the declaration plans it and the kernels use it.

#include <cstdint>

namespace plimsoll {

// Head sizes that fused kernels take.
constexpr bool takes_head_dim(std::int64_t head_dim) { return head_dim <= 128 && head_dim % 8 == 0; }

// A float for each row, which backward makes first.
constexpr std::int64_t row_sums_bytes(std::int64_t batch, std::int64_t heads, std::int64_t length) {
  return (batch * heads * length * std::int64_t{4} + 511) / 512 * 512;
}

// Beyond this much, a library's kernel is not used.
inline constexpr std::int64_t kMostFusedBytes = std::int64_t{2} << 30;
inline constexpr std::int64_t kFusedForwardBytes = std::int64_t{256} << 10;

// cuDNN's backward that gives the same bits on every run keeps the gradient of the scores of all pairs, in 16 bits and
// tiles of 64, and where heads share keys the gradients of keys and values of every query head (measured from its plans
// for Hopper, cuDNN 9.19). 0: more than kMostFusedBytes.
constexpr std::int64_t fused_backward_bytes(std::int64_t batch, std::int64_t heads, std::int64_t kv_heads,
                                            std::int64_t length, std::int64_t head_dim) {
  const std::int64_t padded = (length + 63) / 64 * 64, pairs = batch * heads * padded * padded * 2;
  const std::int64_t shared = heads == kv_heads ? 0 : batch * heads * padded * head_dim * 2 * 2;
  const std::int64_t bytes = row_sums_bytes(batch, heads, length) + pairs + shared + kFusedForwardBytes;
  return bytes <= kMostFusedBytes ? bytes : 0;
}

}  // namespace plimsoll
