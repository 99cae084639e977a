#include <omp.h>

#include "kernels/cpu/attention_head.hpp"
#include "kernels/cpu/register.hpp"

namespace plimsoll {
namespace {

using Scratch = AttentionScratch;

// The queries of one head, in place, and where its results go.
template <class T>
struct QueryHead {
  const T* queries;
  std::int64_t query_stride;
  std::int64_t count, position;  // number of queries, and the position of the first one among the keys
  const std::int32_t* segments;  // of the queries, or null
  T* out;
  std::int64_t out_stride;
  Wide<T>* lse;  // null: not wanted
  const DropoutCounter* dropout;
};

// Online softmax of one tile: turns scores into exp(score - max), updates max and sum of each query and rescales what
// `result` holds so far.
template <class T>
void softmax_tile(const tile::Tile& s, std::int64_t width, T* scores, T* row_max, T* row_sum, T* rescale, T* result) {
  using V = simd::Vector<T>;
  for (std::int64_t q = 0; q < s.queries; q += simd::kLanes<T>) {
    const std::int64_t keys = s.keys_before(q + simd::kLanes<T>);
    V top = simd::at(row_max + q);
    for (std::int64_t k = 0; k < keys; ++k) {
      const V score = simd::at(scores + k * kAttentionTile + q);
      top = score > top ? score : top;
    }
    V sum{};
    for (std::int64_t k = 0; k < keys; ++k) {
      V& score = simd::at(scores + k * kAttentionTile + q);
      score = simd::exp_nonpositive(score - top);
      sum += score;
    }
    const V factor = simd::exp_nonpositive(simd::at(row_max + q) - top);
    simd::at(row_max + q) = top;
    simd::at(row_sum + q) = simd::at(row_sum + q) * factor + sum;
    simd::at(rescale + q) = factor;
  }
  for (std::int64_t q = 0; q < s.queries; ++q) {
    if (rescale[q] == T(1)) continue;
    for (std::int64_t d = 0; d < width; d += simd::kLanes<T>) simd::at(result + q * width + d) *= rescale[q];
  }
}

// Queries [start, start + count) of a head against the packed keys and values in scratch.
template <class T>
void attend_tile(const QueryHead<T>& h, int head_dim, Wide<T> scale, std::int64_t start,
                 const HeadScratch<Wide<T>>& s) {
  using W = Wide<T>;
  const std::int64_t count = std::min(kAttentionTile, h.count - start), padded = pad_attention(count);
  const std::int64_t width = s.at.width, first = h.position + start, keys = first + count;
  W* result = s[&Scratch::result];
  W *row_max = s[&Scratch::row_a], *row_sum = s[&Scratch::row_b];
  tile::pack(count, head_dim, scale, h.queries + start * h.query_stride, h.query_stride, s[&Scratch::queries], width);
  tile::transpose(padded, width, s[&Scratch::queries], width, s[&Scratch::queries_t]);
  pack_segments<W>(h.segments == nullptr ? nullptr : h.segments + start, count, s.segments(&Scratch::query_segments));
  std::fill_n(result, padded * width, W(0));
  std::fill_n(row_max, padded, kMasked<W> / 2);
  std::fill_n(row_sum, padded, W(0));
  for (std::int64_t key = 0; key < keys; key += kAttentionTile) {
    const tile::Tile shape{pad_attention(std::min(kAttentionTile, keys - key)), padded, key == first};
    W* scores = s[&Scratch::scores];
    tile::tile_scores(shape, head_dim, s[&Scratch::keys] + key * width, width, s[&Scratch::queries_t], scores);
    const auto* key_segments = h.segments == nullptr ? nullptr : s.segments(&Scratch::key_segments) + key;
    mask_tile<W>(shape, key, first, key_segments, s.segments(&Scratch::query_segments), scores);
    softmax_tile(shape, width, scores, row_max, row_sum, s[&Scratch::row_c], result);
    if (h.dropout != nullptr) {
      dropout_factors(shape, *h.dropout, key, first, s[&Scratch::factors]);
      for_each_vector<W>(shape, [&](std::int64_t i) { simd::at(scores + i) *= simd::at(s[&Scratch::factors] + i); });
    }
    tile::tile_sum_keys(shape, scores, s[&Scratch::values] + key * width, width, result);
  }
  for (std::int64_t q = 0; q < count; ++q) {
    const W inverse = 1 / row_sum[q];
    T* out = h.out + (start + q) * h.out_stride;
    for (int d = 0; d < head_dim; ++d) out[d] = convert<T>(result[q * width + d] * inverse);
    if (h.lse != nullptr) h.lse[start + q] = row_max[q] + std::log(row_sum[q]);
  }
}

template <class T>
void attention_forward(const KernelArgs& args) {
  const auto& a = args.attrs<Attention>();
  const HeadLayout& l = a.layout;
  const Shape& shape = args.value[Attention::kQkv].spec.shape;
  const std::int64_t batch = shape[0], t = shape[1], stride = l.packed_width(), out_stride = l.output_width();
  const T* qkv = args.v<T>(Attention::kQkv);
  const auto* segments = args.v<std::int32_t>(Attention::kSegments);
  T* out = args.v<T>(Attention::kOut);
  auto* lse = args.v<Wide<T>>(Attention::kLse);
  const Scratch layout(l, t, t, false, a.dropout > 0);
#pragma omp parallel num_threads(attention_threads(args.threads, batch* l.heads))
  {
    const HeadScratch<Wide<T>> scratch(layout, args.workspace, omp_get_thread_num());
    std::int64_t packed = -1;  // which key head of which sample lies in scratch
#pragma omp for schedule(static)
    for (std::int64_t unit = 0; unit < batch * l.heads; ++unit) {
      const std::int64_t b = unit / l.heads;
      const int head = static_cast<int>(unit % l.heads), kv = head / (l.heads / l.kv_heads);
      const T* sample = qkv + b * t * stride;
      const std::int32_t* ids = segments == nullptr ? nullptr : segments + b * t;
      if (packed != b * l.kv_heads + kv) {
        packed = b * l.kv_heads + kv;
        const T* keys = sample + (l.heads + kv) * l.head_dim;
        tile::pack(t, l.head_dim, 1, keys, stride, scratch[&Scratch::keys], layout.width);
        tile::pack(t, l.head_dim, 1, keys + l.kv_heads * l.head_dim, stride, scratch[&Scratch::values], layout.width);
        pack_segments<Wide<T>>(ids, t, scratch.segments(&Scratch::key_segments));
      }
      const DropoutCounter counter = dropout_counter(a, *args.inputs, b, head, t);
      const QueryHead<T> h{.queries = sample + head * l.head_dim,
                           .query_stride = stride,
                           .count = t,
                           .position = 0,
                           .segments = ids,
                           .out = out + b * t * out_stride + head * l.head_dim,
                           .out_stride = out_stride,
                           .lse = lse == nullptr ? nullptr : lse + unit * t,
                           .dropout = a.dropout > 0 ? &counter : nullptr};
      for (std::int64_t start = 0; start < t; start += kAttentionTile) {
        attend_tile(h, l.head_dim, static_cast<Wide<T>>(a.scale), start, scratch);
      }
    }
  }
}

// Copies `rows` rows of one key head into its cache, and the cache from its beginning into scratch.
template <class T>
void append_and_pack(std::int64_t rows, std::int64_t position, int head_dim, const T* from, std::int64_t from_stride,
                     T* cache, std::int64_t cache_stride, Wide<T>* packed, std::int64_t width) {
  for (std::int64_t i = 0; i < rows; ++i) {
    std::copy_n(from + i * from_stride, head_dim, cache + (position + i) * cache_stride);
  }
  tile::pack(position + rows, head_dim, 1, static_cast<const T*>(cache), cache_stride, packed, width);
}

template <class T>
void cached_attention(const KernelArgs& args) {
  using Op = CachedAttention;
  const auto& a = args.attrs<Op>();
  const HeadLayout& l = a.layout;
  const Shape& shape = args.value[Op::kQkv].spec.shape;
  const std::int64_t batch = shape[0], t = shape[1], stride = l.packed_width(), out_stride = l.output_width();
  const std::int64_t positions = args.value[Op::kKeys].spec.shape[1], position = args.inputs->position;
  const std::int64_t cache_stride = std::int64_t{l.kv_heads} * l.head_dim;
  require(position >= 0 && position + t <= positions, ErrorKind::Internal,
          "cached_attention: {} tokens at position {} exceed the cache of {}", t, position, positions);
  const int group = l.heads / l.kv_heads;
  const Scratch layout(l, t, positions, false, false);
#pragma omp parallel for schedule(static) num_threads(attention_threads(args.threads, batch* l.kv_heads))
  for (std::int64_t unit = 0; unit < batch * l.kv_heads; ++unit) {
    const HeadScratch<Wide<T>> scratch(layout, args.workspace, omp_get_thread_num());
    const std::int64_t b = unit / l.kv_heads, kv = unit % l.kv_heads;
    const T* sample = args.v<T>(Op::kQkv) + b * t * stride;
    const T* keys = sample + (l.heads + kv) * l.head_dim;
    const std::int64_t cache = b * positions * cache_stride + kv * l.head_dim;
    append_and_pack(t, position, l.head_dim, keys, stride, args.v<T>(Op::kKeys) + cache, cache_stride,
                    scratch[&Scratch::keys], layout.width);
    append_and_pack(t, position, l.head_dim, keys + l.kv_heads * l.head_dim, stride, args.v<T>(Op::kValues) + cache,
                    cache_stride, scratch[&Scratch::values], layout.width);
    for (std::int64_t head = kv * group; head < (kv + 1) * group; ++head) {
      const QueryHead<T> h{.queries = sample + head * l.head_dim,
                           .query_stride = stride,
                           .count = t,
                           .position = position,
                           .segments = nullptr,
                           .out = args.v<T>(Op::kOut) + b * t * out_stride + head * l.head_dim,
                           .out_stride = out_stride,
                           .lse = nullptr,
                           .dropout = nullptr};
      for (std::int64_t start = 0; start < t; start += kAttentionTile) {
        attend_tile(h, l.head_dim, static_cast<Wide<T>>(a.scale), start, scratch);
      }
    }
  }
}

template <class T>
void add_for_type(KernelTable& table) {
  table.add<Attention>(Phase::Forward, dtype_of<T>(), attention_forward<T>);
  table.add<CachedAttention>(Phase::Forward, dtype_of<T>(), cached_attention<T>);
}

}  // namespace

void add_attention_kernels(KernelTable& table) {
  add_for_type<float>(table);
  add_for_type<double>(table);
  add_for_type<bf16>(table);
  add_for_type<f16>(table);
  add_attention_backward_kernels(table);
}

}  // namespace plimsoll
