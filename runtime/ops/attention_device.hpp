#pragma once
// What of attention a GPU's library computes, in which slices and with how much memory. The declaration plans by it,
// the kernels follow it and costs are counted by it.

#include <algorithm>
#include <cstdint>

#include "runtime/ops/attention.hpp"

namespace plimsoll {

// Widest head of a GPU's kernels.
inline constexpr std::int64_t kMostDeviceHeadDim = 256;

// The oldest cuDNN that computes attention here, as it counts: earlier ones are wrong, or read beyond their operands,
// where lengths are no multiples of 128 (release notes).
inline constexpr std::int64_t kOldestCudnn = 91501;

// What cuDNN supports on a GPU of this compute capability (ten times it; 0: nobody knows), in bf16 and f16 (NVIDIA's
// documentation of cuDNN's attention, "Support Matrix"; its library 9.19 has reproducible plans of these, and none of
// others but for forward of heads wider than 256).
// `cudnn`: its version, 0: there is none; of a GPU that is described, one that is new enough.
constexpr FusedHeads fused_heads(int compute_capability, std::int64_t cudnn = kOldestCudnn) {
  if (cudnn < kOldestCudnn) return {0, 0};
  const int generation = compute_capability / 10;
  return {generation >= 8 ? 256 : 128, generation == 9 ? 256 : 128};
}

// Whether heads of this size are not the library's on every GPU: then plans and times say what computes them.
constexpr bool names_fused_heads(const FusedHeads& fused, std::int64_t head_dim) {
  return head_dim > std::min(FusedHeads{}.forward, fused.forward);
}

constexpr bool takes_head_dim(const FusedHeads& fused, Phase phase, std::int64_t head_dim) {
  return head_dim <= (phase == Phase::Forward ? fused.forward : fused.backward) && head_dim % 8 == 0;
}

// A float for each row, which backward makes first.
constexpr std::int64_t row_sums_bytes(std::int64_t batch, std::int64_t heads, std::int64_t length) {
  return (batch * heads * length * std::int64_t{4} + 511) / 512 * 512;
}

inline constexpr std::int64_t kFusedForwardBytes = std::int64_t{256} << 10;

// cuDNN's backward that gives the same bits on every run keeps the gradient of the scores of all pairs, in 16 bits and
// tiles of 64 queries and, on Hopper, 128 keys, elsewhere 64, and where heads share keys the gradients of keys and
// values of every query head (measured from plans of cuDNN 9.19 for compute capabilities 8.0, 8.6, 8.9, 9.0, 10.0, 10.3
// and 12.0). With the sums of rows.
constexpr std::int64_t fused_backward_bytes(std::int64_t batch, std::int64_t heads, std::int64_t kv_heads,
                                            std::int64_t length, std::int64_t head_dim) {
  const std::int64_t padded = (length + 63) / 64 * 64, keys = (length + 127) / 128 * 128;
  const std::int64_t pairs = batch * heads * padded * keys * 2;
  const std::int64_t shared = heads == kv_heads ? 0 : batch * heads * padded * head_dim * 2 * 2;
  return row_sums_bytes(batch, heads, length) + pairs + shared + kFusedForwardBytes;
}

// Of one call of the library. A choice: a call with as much as this has a thousand million pairs, a quarter of a
// million tiles, which is work for every GPU, so that larger ones would gain nothing; and it is little beside the
// activations of models that are trained at such lengths.
inline constexpr std::int64_t kMostFusedBytes = std::int64_t{2} << 30;
// Of the smallest call, the query heads of one key head of one sample, where that needs more (Llama 3 405B split over
// eight ranks: 2.2 GiB): our own kernels would take several times as long. Pairs have indices below 2^31 then.
inline constexpr std::int64_t kMostFusedHeadBytes = std::int64_t{4} << 30;

// The calls in which the library computes a node, one after the other with the same workspace: each has `samples`
// samples and `kv_heads` key heads with their query heads, the last of a row of calls perhaps fewer; either these are
// all key heads, or `samples` is 1. samples 0: the library does not take the node, our own kernels compute it, in
// floats, and need no workspace.
struct FusedSlices {
  std::int64_t samples = 0, kv_heads = 0;
  std::int64_t bytes = 0;  // workspace
  bool operator==(const FusedSlices&) const = default;
};

// Some samples and key heads of a node.
struct FusedSlice {
  std::int64_t sample = 0, samples = 0, kv_head = 0, kv_heads = 0;
  bool operator==(const FusedSlice&) const = default;
};

// Calls f(FusedSlice) for every slice of so many samples and key heads, in order; of none where slices.samples is 0.
template <class F>
constexpr void for_each_slice(const FusedSlices& slices, std::int64_t batch, std::int64_t kv_heads, F&& f) {
  if (slices.samples == 0) return;
  for (std::int64_t b = 0; b < batch; b += slices.samples) {
    for (std::int64_t k = 0; k < kv_heads; k += slices.kv_heads)
      f(FusedSlice{b, std::min(slices.samples, batch - b), k, std::min(slices.kv_heads, kv_heads - k)});
  }
}

// Of `all`, a part of the fewest even parts of which each has bytes_of(part) <= most; 0: not even one of `all` has.
template <class F>
constexpr std::int64_t even_part(std::int64_t all, std::int64_t most, const F& bytes_of) {
  for (std::int64_t count = std::max<std::int64_t>(1, bytes_of(all) / most); count <= all; ++count) {
    const std::int64_t part = (all + count - 1) / count;
    if (bytes_of(part) <= most) return part;
  }
  return 0;
}

// Of backward, by the shape alone: as few slices of `most` bytes as hold all samples, as even as they can be; where one
// sample needs more, those that hold the key heads of each; where one of these does, one, if it has `most_of_head`. A
// slice begins where the log-sum-exp of a head does, which the library wants aligned to 16 bytes: lengths that are not
// multiples of 4 are taken in one slice or not at all.
constexpr FusedSlices fused_backward_slices(std::int64_t batch, const HeadLayout& layout, std::int64_t length,
                                            std::int64_t most = kMostFusedBytes,
                                            std::int64_t most_of_head = kMostFusedHeadBytes) {
  const auto bytes = [&](std::int64_t samples, std::int64_t kv_heads) {
    const std::int64_t heads = kv_heads * (layout.heads / layout.kv_heads);
    return fused_backward_bytes(samples, heads, kv_heads, length, layout.head_dim);
  };
  FusedSlices slices{0, layout.kv_heads};
  slices.samples = even_part(batch, most, [&](std::int64_t samples) { return bytes(samples, layout.kv_heads); });
  if (slices.samples == 0) {
    slices.samples = 1;
    slices.kv_heads = even_part(layout.kv_heads, most, [&](std::int64_t kv_heads) { return bytes(1, kv_heads); });
    if (slices.kv_heads == 0 && bytes(1, 1) <= most_of_head) slices.kv_heads = 1;
  }
  const bool whole = slices.samples == batch && slices.kv_heads == layout.kv_heads;
  if (slices.kv_heads == 0 || (!whole && length % 4 != 0)) return {};
  slices.bytes = bytes(slices.samples, slices.kv_heads);
  return slices;
}

// What kernels of a GPU do for a node of attention: operands of 16 bits, heads as above, neither dropout nor segments.
FusedSlices fused_slices(const Attention::Attrs& a, const SlotSpecs& s, Phase phase);

// Backward of our own kernels makes so many products for each that Attention::flops() counts: scores and their
// gradients are computed for the gradient of queries, and once more for that of keys and values.
inline constexpr double kTiledBackwardProducts = 7.0 / 4;

}  // namespace plimsoll
