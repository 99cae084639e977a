#include <omp.h>

#include "kernels/cpu/attention_head.hpp"
#include "kernels/cpu/parallel.hpp"

namespace plimsoll {
namespace {

using Scratch = AttentionScratch;

// One query head of one sample: what backward reads, and where its query gradient goes. Strides are those of packed qkv
// and of the output.
template <class T>
struct GradientHead {
  const T *queries, *out, *out_gradient;
  const Wide<T>* lse;
  T* query_gradient;
  std::int64_t stride, out_stride, count;
  const std::int32_t* segments;
  const DropoutCounter* dropout;
  bool add;
};

// to[rows, columns] = factor · from, or += with `add`.
template <class T>
void unpack(std::int64_t rows, std::int64_t columns, Wide<T> factor, const Wide<T>* from, std::int64_t width, bool add,
            T* to, std::int64_t stride) {
  for (std::int64_t i = 0; i < rows; ++i) {
    store_range(to + i * stride, add, 0, columns, [=](std::int64_t j) { return factor * from[i * width + j]; });
  }
}

// Packs what a tile of queries needs: scaled queries and the output gradient, both also transposed, log-sum-exp, and
// Σ_d out · out_gradient, which is Σ_k p · dp of each row.
template <class T>
void pack_queries(const GradientHead<T>& h, int head_dim, Wide<T> scale, std::int64_t start, std::int64_t count,
                  const HeadScratch<Wide<T>>& s) {
  using W = Wide<T>;
  const std::int64_t width = s.at.width, padded = pad_attention(count);
  const T* gradient = h.out_gradient + start * h.out_stride;
  tile::pack(count, head_dim, scale, h.queries + start * h.stride, h.stride, s[&Scratch::queries], width);
  tile::pack(count, head_dim, 1, gradient, h.out_stride, s[&Scratch::gradient], width);
  tile::transpose(padded, width, s[&Scratch::queries], width, s[&Scratch::queries_t]);
  tile::transpose(padded, width, s[&Scratch::gradient], width, s[&Scratch::gradient_t]);
  pack_segments<W>(h.segments == nullptr ? nullptr : h.segments + start, count, s.segments(&Scratch::query_segments));
  W *lse = s[&Scratch::row_a], *delta = s[&Scratch::row_b];
  for (std::int64_t q = 0; q < padded; ++q) {
    W sum = 0;
    if (q < count) {
      const T *out = h.out + (start + q) * h.out_stride, *out_gradient = gradient + q * h.out_stride;
#pragma omp simd reduction(+ : sum)
      for (int d = 0; d < head_dim; ++d) sum += widen(out[d]) * widen(out_gradient[d]);
    }
    delta[q] = sum;
    lse[q] = q < count ? h.lse[start + q] : W(0);
  }
}

// Probabilities p from scores and, from the gradient of the dropped probabilities, that of the scores:
// dS = p · (factor · dP - delta). With dropout, `scores` becomes factor · p, which the values' gradient wants.
template <class T>
void gradient_tile(const tile::Tile& shape, const T* lse, const T* delta, const T* factors, T* scores, T* gradient) {
  using V = simd::Vector<T>;
  for (std::int64_t q = 0; q < shape.queries; q += simd::kLanes<T>) {
    const V row_lse = simd::at(lse + q), row_delta = simd::at(delta + q);
    for (std::int64_t k = 0; k < shape.keys_before(q + simd::kLanes<T>); ++k) {
      const std::int64_t i = k * kAttentionTile + q;
      const V p = simd::exp_nonpositive(simd::at(scores + i) - row_lse);
      V dp = simd::at(gradient + i), dropped = p;
      if (factors != nullptr) {
        dp *= simd::at(factors + i);
        dropped *= simd::at(factors + i);
      }
      simd::at(gradient + i) = p * (dp - row_delta);
      simd::at(scores + i) = dropped;
    }
  }
}

// Adds the share of queries [start, start + 64) to the gradients of keys and values, and writes their own.
template <class T>
void backward_tile(const GradientHead<T>& h, int head_dim, Wide<T> scale, std::int64_t start,
                   const HeadScratch<Wide<T>>& s) {
  using W = Wide<T>;
  const std::int64_t count = std::min(kAttentionTile, h.count - start), padded = pad_attention(count);
  const std::int64_t width = s.at.width, keys = start + count;
  pack_queries(h, head_dim, scale, start, count, s);
  std::fill_n(s[&Scratch::result], padded * width, W(0));
  for (std::int64_t key = 0; key < keys; key += kAttentionTile) {
    const tile::Tile shape{pad_attention(std::min(kAttentionTile, keys - key)), padded, key == start};
    W *scores = s[&Scratch::scores], *gradient = s[&Scratch::score_gradient];
    const W* packed_keys = s[&Scratch::keys] + key * width;
    tile::tile_scores(shape, head_dim, packed_keys, width, s[&Scratch::queries_t], scores);
    tile::tile_scores(shape, head_dim, s[&Scratch::values] + key * width, width, s[&Scratch::gradient_t], gradient);
    const auto* key_segments = h.segments == nullptr ? nullptr : s.segments(&Scratch::key_segments) + key;
    mask_tile<W>(shape, key, start, key_segments, s.segments(&Scratch::query_segments), scores);
    const W* factors = nullptr;
    if (h.dropout != nullptr) {
      dropout_factors(shape, *h.dropout, key, start, s[&Scratch::factors]);
      factors = s[&Scratch::factors];
    }
    gradient_tile(shape, s[&Scratch::row_a], s[&Scratch::row_b], factors, scores, gradient);
    tile::tile_sum_queries(shape, scores, s[&Scratch::gradient], width, s[&Scratch::value_gradient] + key * width);
    tile::tile_sum_queries(shape, gradient, s[&Scratch::queries], width, s[&Scratch::key_gradient] + key * width);
    tile::tile_sum_keys(shape, gradient, packed_keys, width, s[&Scratch::result]);
  }
  unpack(count, head_dim, scale, s[&Scratch::result], width, h.add, h.query_gradient + start * h.stride, h.stride);
}

// One key head of one sample with all its query heads, in order: nobody else adds to its gradients.
template <class T>
void backward_group(const KernelArgs& args, std::int64_t b, int kv, const HeadScratch<Wide<T>>& s) {
  using W = Wide<T>;
  const auto& a = args.attrs<Attention>();
  const HeadLayout& l = a.layout;
  const std::int64_t t = args.value[Attention::kQkv].spec.shape[1], stride = l.packed_width(), width = s.at.width;
  const std::int64_t out_stride = l.output_width(), sample = b * t * stride;
  const std::int64_t key_at = sample + (l.heads + kv) * l.head_dim, value_at = key_at + l.kv_heads * l.head_dim;
  const T* qkv = args.v<T>(Attention::kQkv);
  T* gradient = args.g<T>(Attention::kQkv);
  const auto* segments = args.v<std::int32_t>(Attention::kSegments);
  const std::int32_t* ids = segments == nullptr ? nullptr : segments + b * t;
  const bool add = args.accumulates(Attention::kQkv);
  tile::pack(t, l.head_dim, 1, qkv + key_at, stride, s[&Scratch::keys], width);
  tile::pack(t, l.head_dim, 1, qkv + value_at, stride, s[&Scratch::values], width);
  pack_segments<W>(ids, t, s.segments(&Scratch::key_segments));
  std::fill_n(s[&Scratch::key_gradient], pad_attention(t) * width, W(0));
  std::fill_n(s[&Scratch::value_gradient], pad_attention(t) * width, W(0));
  const int group = l.heads / l.kv_heads;
  for (int head = kv * group; head < (kv + 1) * group; ++head) {
    const DropoutCounter counter = dropout_counter(a, *args.inputs, b, head, t);
    const std::int64_t query_at = sample + head * l.head_dim, out_at = b * t * out_stride + head * l.head_dim;
    const GradientHead<T> h{.queries = qkv + query_at,
                            .out = args.v<T>(Attention::kOut) + out_at,
                            .out_gradient = args.g<T>(Attention::kOut) + out_at,
                            .lse = args.v<W>(Attention::kLse) + (b * l.heads + head) * t,
                            .query_gradient = gradient + query_at,
                            .stride = stride,
                            .out_stride = out_stride,
                            .count = t,
                            .segments = ids,
                            .dropout = a.dropout > 0 ? &counter : nullptr,
                            .add = add};
    for (std::int64_t start = 0; start < t; start += kAttentionTile) {
      backward_tile(h, l.head_dim, static_cast<W>(a.scale), start, s);
    }
  }
  unpack(t, l.head_dim, 1, s[&Scratch::key_gradient], width, add, gradient + key_at, stride);
  unpack(t, l.head_dim, 1, s[&Scratch::value_gradient], width, add, gradient + value_at, stride);
}

template <class T>
void attention_backward(const KernelArgs& args) {
  const auto& a = args.attrs<Attention>();
  const Shape& shape = args.value[Attention::kQkv].spec.shape;
  if (!args.grad[Attention::kQkv]) return;
  if (without_gradient<Attention>(args, Attention::kOut)) return;
  const int kv_heads = a.layout.kv_heads;
  const Scratch layout(a.layout, shape[1], shape[1], true, a.dropout > 0);
#pragma omp parallel for schedule(static) num_threads(attention_threads(args.threads, shape[0] * kv_heads))
  for (std::int64_t unit = 0; unit < shape[0] * kv_heads; ++unit) {
    const HeadScratch<Wide<T>> scratch(layout, args.workspace, omp_get_thread_num());
    backward_group<T>(args, unit / kv_heads, static_cast<int>(unit % kv_heads), scratch);
  }
}

}  // namespace

void add_attention_backward_kernels(KernelTable& table) {
  table.add<Attention>(Phase::InputGrad, DType::f32, attention_backward<float>);
  table.add<Attention>(Phase::InputGrad, DType::f64, attention_backward<double>);
  table.add<Attention>(Phase::InputGrad, DType::bf16, attention_backward<bf16>);
  table.add<Attention>(Phase::InputGrad, DType::f16, attention_backward<f16>);
}

}  // namespace plimsoll
