#pragma once
// Attention as its definition says, in double, with a full score matrix.

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "runtime/core/rng.hpp"
#include "runtime/ops/attention.hpp"

namespace plimsoll {

struct ReferenceAttention {
  Attention::Attrs attributes;
  StepInputs inputs;
  std::int64_t batch = 1, length = 1;
  std::vector<double> qkv, out_gradient;
  std::vector<std::int32_t> segments;  // empty: none
  std::vector<double> out, lse, gradient;

  void run() {
    const HeadLayout& l = attributes.layout;
    out.assign(static_cast<std::size_t>(batch * length * l.output_width()), 0);
    lse.assign(static_cast<std::size_t>(batch * l.heads * length), 0);
    gradient.assign(qkv.size(), 0);
    for (std::int64_t b = 0; b < batch; ++b) {
      for (std::int64_t head = 0; head < l.heads; ++head) {
        for (std::int64_t q = 0; q < length; ++q) row(b, head, q);
      }
    }
  }

 private:
  std::size_t packed(std::int64_t b, std::int64_t t, std::int64_t column, std::int64_t d) const {
    return static_cast<std::size_t>((b * length + t) * attributes.layout.packed_width() +
                                    column * attributes.layout.head_dim + d);
  }
  double factor(std::int64_t b, std::int64_t head, std::int64_t q, std::int64_t k) const {
    if (attributes.dropout == 0) return 1;
    const auto row =
        (inputs.first_sample + static_cast<std::uint64_t>(b)) * static_cast<std::uint64_t>(attributes.layout.heads) +
        static_cast<std::uint64_t>(head);
    const auto t = static_cast<std::uint64_t>(length);
    const std::uint64_t index = row * t * t + static_cast<std::uint64_t>(q) * t + static_cast<std::uint64_t>(k);
    const bool dropped = RandomStream(inputs.seed, attributes.site).bits(index) < dropout_threshold(attributes.dropout);
    return dropped ? 0 : 1 / (1 - attributes.dropout);
  }

  void row(std::int64_t b, std::int64_t head, std::int64_t q) {
    const HeadLayout& l = attributes.layout;
    const std::int64_t kv = head / (l.heads / l.kv_heads), key_column = l.heads + kv,
                       value_column = key_column + l.kv_heads;
    const auto dot = [&](std::int64_t t1, std::int64_t c1, std::int64_t t2, std::int64_t c2) {
      double sum = 0;
      for (int d = 0; d < l.head_dim; ++d) sum += qkv[packed(b, t1, c1, d)] * qkv[packed(b, t2, c2, d)];
      return sum;
    };
    std::vector<double> p(static_cast<std::size_t>(q + 1)), dp(p.size());
    double sum = 0;
    for (std::int64_t k = 0; k <= q; ++k) {
      const auto token = static_cast<std::size_t>(b * length);
      const bool other = !segments.empty() &&
                         segments[token + static_cast<std::size_t>(k)] != segments[token + static_cast<std::size_t>(q)];
      p[static_cast<std::size_t>(k)] = other ? 0 : std::exp(attributes.scale * dot(q, head, k, key_column));
      sum += p[static_cast<std::size_t>(k)];
    }
    lse[static_cast<std::size_t>((b * l.heads + head) * length + q)] = std::log(sum);
    const auto at_out = static_cast<std::size_t>(((b * length + q) * l.heads + head) * l.head_dim);
    double delta = 0;
    for (std::int64_t k = 0; k <= q; ++k) {
      const auto i = static_cast<std::size_t>(k);
      p[i] /= sum;
      const double f = factor(b, head, q, k);
      for (int d = 0; d < l.head_dim; ++d) {
        const auto o = at_out + static_cast<std::size_t>(d);
        const std::size_t v = packed(b, k, value_column, d);
        out[o] += f * p[i] * qkv[v];
        if (out_gradient.empty()) continue;
        dp[i] += f * out_gradient[o] * qkv[v];
        gradient[v] += f * p[i] * out_gradient[o];
      }
      delta += p[i] * dp[i];
    }
    for (std::int64_t k = 0; k <= q && !out_gradient.empty(); ++k) {
      const auto i = static_cast<std::size_t>(k);
      const double ds = p[i] * (dp[i] - delta) * attributes.scale;
      for (int d = 0; d < l.head_dim; ++d) {
        gradient[packed(b, q, head, d)] += ds * qkv[packed(b, k, key_column, d)];
        gradient[packed(b, k, key_column, d)] += ds * qkv[packed(b, q, head, d)];
      }
    }
  }
};

}  // namespace plimsoll
