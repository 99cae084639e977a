#include <algorithm>
#include <cmath>
#include <numbers>

#include "runtime/ops/attention.hpp"

namespace plimsoll {

void Rope::infer(const Attrs& a, SlotSpecs& s) {
  const TensorSpec x = s[kX];
  require(x.shape.rank() == 3 && x.last() == a.layout.packed_width() && is_floating(x.dtype), ErrorKind::Internal,
          "rope: x is {}, but {} query and {} key heads of {} are {} wide", to_string(x), a.layout.heads,
          a.layout.kv_heads, a.layout.head_dim, a.layout.packed_width());
  require(a.layout.head_dim % 2 == 0, ErrorKind::Internal, "rope: head_dim {} is odd", a.layout.head_dim);
  s.set(kY, x);
}

std::int64_t Rope::flops(const Attrs& a, const SlotSpecs& s, Phase phase) {
  if (phase != Phase::Forward && phase != Phase::InputGrad) return 0;
  return 3 * s[kX].rows() * (a.layout.heads + a.layout.kv_heads) * a.layout.head_dim;
}

// cos and sin of each position and frequency.
std::int64_t Rope::workspace_bytes(const Attrs& a, const SlotSpecs& s, Phase phase, int) {
  if (phase != Phase::Forward && phase != Phase::InputGrad) return 0;
  return s[kX].shape[1] * a.layout.head_dim * dtype_bytes(wide_dtype(s[kX].dtype));
}

std::vector<Sample<Rope::Attrs>> Rope::samples() {
  RopeRule linear{.theta = 500, .stretch = RopeStretch::Linear, .factor = 4};
  RopeRule llama{.theta = 5000, .stretch = RopeStretch::Llama3, .factor = 8, .original_positions = 64};
  return {
      make_sample(Attrs{{3, 1, 6}, {}}, {{kX, {2, 5, 30}}}),
      make_sample(Attrs{{2, 2, 14}, linear}, {{kX, {3, 9, 84}}}),
      make_sample(Attrs{{4, 2, 32}, llama}, {{kX, {2, 37, 256}}}),
  };
}

double rope_inverse_frequency(const RopeRule& rule, int head_dim, int i) {
  const double f = std::pow(rule.theta, -2.0 * i / head_dim);
  if (rule.stretch == RopeStretch::None) return f;
  if (rule.stretch == RopeStretch::Linear) return f / rule.factor;
  const double turns = rule.original_positions * f / (2 * std::numbers::pi);  // original context / wavelength
  const double kept =
      std::clamp((turns - rule.low_freq_factor) / (rule.high_freq_factor - rule.low_freq_factor), 0.0, 1.0);
  return (1 - kept) * f / rule.factor + kept * f;
}

std::vector<double> rope_inverse_frequencies(const RopeRule& rule, int head_dim) {
  std::vector<double> frequencies(static_cast<std::size_t>(head_dim / 2));
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] = rope_inverse_frequency(rule, head_dim, static_cast<int>(i));
  }
  return frequencies;
}

}  // namespace plimsoll
