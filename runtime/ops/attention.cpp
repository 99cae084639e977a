#include "runtime/ops/attention.hpp"

#include "runtime/ops/attention_device.hpp"
#include "runtime/ops/attention_scratch.hpp"

namespace plimsoll {
namespace {

void require_packed(std::string_view op, const HeadLayout& l, const TensorSpec& qkv) {
  require(l.heads > 0 && l.kv_heads > 0 && l.head_dim > 0 && l.heads % l.kv_heads == 0, ErrorKind::Internal,
          "{}: {} query heads over {} key heads of {}", op, l.heads, l.kv_heads, l.head_dim);
  require(qkv.shape.rank() == 3 && qkv.last() == l.packed_width() && is_floating(qkv.dtype), ErrorKind::Internal,
          "{}: qkv is {}, but {} query and {} key heads of {} are {} wide", op, to_string(qkv), l.heads, l.kv_heads,
          l.head_dim, l.packed_width());
}

}  // namespace

void Attention::infer(const Attrs& a, SlotSpecs& s) {
  const TensorSpec qkv = s[kQkv];
  require_packed(name, a.layout, qkv);
  const std::int64_t b = qkv.shape[0], t = qkv.shape[1];
  require(!s.has(kSegments) || s[kSegments] == TensorSpec{{b, t}, DType::i32}, ErrorKind::Internal,
          "attention: segments is {}, qkv is {}", to_string(s[kSegments]), to_string(qkv));
  require(a.dropout >= 0 && a.dropout < 1, ErrorKind::Internal, "attention: dropout is {}", a.dropout);
  s.set(kOut, {{b, t, a.layout.output_width()}, qkv.dtype});
  s.set(kLse, {{b, a.layout.heads, t}, qkv.dtype});
}

// Model FLOPs: two products per pair in forward, four in backward; computing the scores again is not counted.
std::int64_t Attention::flops(const Attrs& a, const SlotSpecs& s, Phase phase) {
  if (phase != Phase::Forward && phase != Phase::InputGrad) return 0;
  const std::int64_t t = s[kQkv].shape[1];
  const std::int64_t pairs = s[kQkv].shape[0] * a.layout.heads * (t * (t + 1) / 2);
  return (phase == Phase::Forward ? 2 : 4) * matmul_flops(pairs, 1, a.layout.head_dim);
}

std::int64_t Attention::workspace_bytes(const Attrs& a, const SlotSpecs& s, Phase phase, int threads) {
  if (phase != Phase::Forward && phase != Phase::InputGrad) return 0;
  if (threads == kDeviceThreads) return fused_slices(a, s, phase).bytes;
  const TensorSpec& qkv = s[kQkv];
  const std::int64_t t = qkv.shape[1];
  const bool backward = phase == Phase::InputGrad;
  const std::int64_t units = qkv.shape[0] * (backward ? a.layout.kv_heads : a.layout.heads);
  const AttentionScratch scratch(a.layout, t, t, backward, a.dropout > 0);
  return attention_threads(threads, units) * scratch.elements * dtype_bytes(wide_dtype(qkv.dtype));
}

FusedSlices fused_slices(const Attention::Attrs& a, const SlotSpecs& s, Phase phase) {
  const TensorSpec& qkv = s[Attention::kQkv];
  const bool half = dtype_bytes(qkv.dtype) == 2;
  const bool takes = half && takes_head_dim(a.fused_heads, phase, a.layout.head_dim);
  if (!takes || s.has(Attention::kSegments) || a.dropout > 0) return {};
  if (qkv.shape[1] < 2) return {};  // cuDNN has plans for one key, but says that backward of it is not supported
  if (phase == Phase::Forward) return {qkv.shape[0], a.layout.kv_heads, kFusedForwardBytes};
  return fused_backward_slices(qkv.shape[0], a.layout, qkv.shape[1]);
}

std::vector<Sample<Attention::Attrs>> Attention::samples() {
  return {
      make_sample(Attrs{{2, 2, 4}, 0.5}, {{kQkv, {2, 5, 24}}}),
      make_sample(Attrs{{4, 2, 3}, 0.6}, {{kQkv, {1, 17, 24}}, {kSegments, {1, 17}, DType::i32}}, 2),
      make_sample(Attrs{{2, 1, 5}, 0.4, 0.25, 7}, {{kQkv, {2, 6, 20}}}),
      make_sample(Attrs{{1, 1, 17}, 0.25}, {{kQkv, {1, 67, 51}}}),
  };
}

void CachedAttention::infer(const Attrs& a, SlotSpecs& s) {
  const TensorSpec qkv = s[kQkv];
  require_packed(name, a.layout, qkv);
  const std::int64_t width = std::int64_t{a.layout.kv_heads} * a.layout.head_dim;
  for (const int cache : {kKeys, kValues}) {
    const TensorSpec& c = s[cache];
    require(c.shape.rank() == 3 && c.shape[0] == qkv.shape[0] && c.shape[1] >= qkv.shape[1] && c.last() == width &&
                c.dtype == qkv.dtype && c == s[kKeys],
            ErrorKind::Internal, "cached_attention: {} is {}, qkv is {}", slots[static_cast<std::size_t>(cache)].name,
            to_string(c), to_string(qkv));
  }
  s.set(kOut, {{qkv.shape[0], qkv.shape[1], a.layout.output_width()}, qkv.dtype});
}

// With full caches, the most that a call can take.
std::int64_t CachedAttention::flops(const Attrs& a, const SlotSpecs& s, Phase phase) {
  if (phase != Phase::Forward) return 0;
  const std::int64_t t = s[kQkv].shape[1], positions = s[kKeys].shape[1];
  const std::int64_t pairs = s[kQkv].shape[0] * a.layout.heads * (t * positions - t * (t - 1) / 2);
  return 2 * matmul_flops(pairs, 1, a.layout.head_dim);
}

std::int64_t CachedAttention::workspace_bytes(const Attrs& a, const SlotSpecs& s, Phase phase, int threads) {
  if (phase != Phase::Forward) return 0;
  const TensorSpec& qkv = s[kQkv];
  const AttentionScratch scratch(a.layout, qkv.shape[1], s[kKeys].shape[1], false, false);
  return attention_threads(threads, qkv.shape[0] * a.layout.kv_heads) * scratch.elements *
         dtype_bytes(wide_dtype(qkv.dtype));
}

std::vector<Sample<CachedAttention::Attrs>> CachedAttention::samples() {
  return {
      make_sample(Attrs{{2, 2, 4}, 0.5}, {{kQkv, {2, 3, 24}}, {kKeys, {2, 9, 8}}, {kValues, {2, 9, 8}}}),
      make_sample(Attrs{{4, 1, 7}, 0.4}, {{kQkv, {1, 1, 42}}, {kKeys, {1, 70, 7}}, {kValues, {1, 70, 7}}}),
      make_sample(Attrs{{2, 1, 8}, 0.35}, {{kQkv, {2, 37, 32}}, {kKeys, {2, 41, 8}}, {kValues, {2, 41, 8}}}),
  };
}

}  // namespace plimsoll
