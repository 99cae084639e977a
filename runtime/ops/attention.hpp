#pragma once
#include "runtime/ops/op.hpp"

namespace plimsoll {

// Packed heads: qkv [B, T, (heads + 2·kv_heads)·head_dim] holds all query heads, then key heads, then value heads of a
// token, the order in which the q, k and v projections of a checkpoint stack. Query head i uses key head i / (heads /
// kv_heads).
struct HeadLayout {
  int heads = 1, kv_heads = 1, head_dim = 1;
  std::int64_t packed_width() const { return std::int64_t{heads + 2 * kv_heads} * head_dim; }
  std::int64_t output_width() const { return std::int64_t{heads} * head_dim; }
};

// Widest heads that the library of a GPU computes, by phase (0: none); wider ones are left to our own
// kernels (runtime/ops/attention_device.hpp).
struct FusedHeads {
  int forward = 128, backward = 128;
  bool operator==(const FusedHeads&) const = default;
};

// out = softmax(scale · q kᵀ, causal) v per head, tiled with online softmax: no T×T tensor; lse [B, heads, T] is the
// log-sum-exp of each row (Dao et al. 2022, FlashAttention). out [B, T, heads·head_dim]. Any head size.
// Dropout acts on the probabilities: element (sample, head, query, key) replays the counter at index
// ((first_sample + b)·heads + head)·T·T + query·T + key of stream (seed, site).
// `segments` [B, T] (i32, optional): tokens attend within their own segment only (packed documents).
struct Attention : OpDefaults {
  struct Attrs {
    HeadLayout layout;
    double scale = 1;  // usually 1 / sqrt(head_dim)
    double dropout = 0;
    std::uint64_t site = 0;
    int first_head = 0, all_heads = 0;  // of heads that are split over ranks; all_heads 0: they are all here
    FusedHeads fused_heads = {};        // of the GPUs that the graph is planned for; nothing on a CPU
  };
  static constexpr std::string_view name = "attention";
  enum : int { kQkv, kSegments, kOut, kLse };
  static constexpr std::array slots{
      Slot{"qkv", Role::Input, Backward::Reads},
      Slot{"segments", Role::Input, Backward::Reads, true},
      Slot{"out", Role::Output, Backward::Reads},
      Slot{"lse", Role::Stat, Backward::Reads},
  };
  static void infer(const Attrs& a, SlotSpecs& s);
  // Causal: only the pairs with key ≤ query count.
  static std::int64_t flops(const Attrs& a, const SlotSpecs& s, Phase phase);
  static std::int64_t workspace_bytes(const Attrs& a, const SlotSpecs& s, Phase phase, int threads);
  static std::vector<Sample<Attrs>> samples();
};

// Inference: appends the keys and values of qkv [B, T, packed] to the caches [B, positions, kv_heads·head_dim] at
// step_inputs.position, then attends causally to all cached positions: query length T, key length position + T.
struct CachedAttention : OpDefaults {
  struct Attrs {
    HeadLayout layout;
    double scale = 1;
  };
  static constexpr std::string_view name = "cached_attention";
  static constexpr bool inference_only = true;
  enum : int { kQkv, kKeys, kValues, kOut };
  static constexpr std::array slots{
      Slot{"qkv", Role::Input},
      Slot{"keys", Role::State},
      Slot{"values", Role::State},
      Slot{"out", Role::Output},
  };
  static void infer(const Attrs& a, SlotSpecs& s);
  static std::int64_t flops(const Attrs& a, const SlotSpecs& s, Phase phase);
  static std::int64_t workspace_bytes(const Attrs& a, const SlotSpecs& s, Phase phase, int threads);
  static std::vector<Sample<Attrs>> samples();
};

// How rotary frequencies are stretched beyond the trained context.
enum class RopeStretch : std::uint8_t { None, Linear, Llama3 };
struct RopeRule {
  double theta = 10000;
  RopeStretch stretch = RopeStretch::None;
  double factor = 1;
  double low_freq_factor = 1, high_freq_factor = 4;  // Llama3
  int original_positions = 8192;                     // Llama3
};

// Rotates the query and key heads of packed qkv by their position (Su et al. 2021, RoFormer; halves convention of
// Hugging Face: element i pairs with i + head_dim/2). Position of column t is step_inputs.position + t. Llama3 rule:
// wavelengths above original/low are divided by factor, below original/high kept, between interpolated (Llama 3.1).
// Backward rotates by the negative angle and reads nothing.
struct Rope : OpDefaults {
  struct Attrs {
    HeadLayout layout;
    RopeRule rule;
  };
  static constexpr std::string_view name = "rope";
  enum : int { kX, kY };
  static constexpr std::array slots{
      Slot{"x", Role::Input, Backward::Ignores, false, kY},
      Slot{"y", Role::Output, Backward::Ignores, false, kX},
  };
  static void infer(const Attrs& a, SlotSpecs& s);
  static std::int64_t flops(const Attrs& a, const SlotSpecs& s, Phase phase);
  static std::int64_t workspace_bytes(const Attrs& a, const SlotSpecs& s, Phase phase, int threads);
  static std::vector<Sample<Attrs>> samples();
};

// The head_dim/2 inverse frequencies of a rule, in double; float kernels round these, multiply by the position in float
// and take sin and cos of that, as transformers does.
std::vector<double> rope_inverse_frequencies(const RopeRule& rule, int head_dim);
double rope_inverse_frequency(const RopeRule& rule, int head_dim, int i);

}  // namespace plimsoll
