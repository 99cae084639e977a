#include "runtime/ops/pointwise.hpp"

#include "runtime/core/rng.hpp"

namespace plimsoll {
namespace {

std::int64_t per_element(std::int64_t elements, Phase phase, std::int64_t forward, std::int64_t backward) {
  if (phase == Phase::Forward) return forward * elements;
  return phase == Phase::InputGrad ? backward * elements : 0;
}

void require_floating(std::string_view op, const TensorSpec& x) {
  require(x.shape.rank() >= 1 && is_floating(x.dtype), ErrorKind::Internal, "{}: x is {}", op, to_string(x));
}

}  // namespace

void Activate::infer(const Attrs&, SlotSpecs& s) {
  require_floating(name, s[kX]);
  s.set(kY, TensorSpec(s[kX]));
}
std::int64_t Activate::flops(const Attrs&, const SlotSpecs& s, Phase phase) {
  return per_element(s[kX].elements(), phase, 20, 30);
}
std::vector<Sample<Activate::Attrs>> Activate::samples() {
  return {
      make_sample(Attrs{Activation::GeluTanh}, {{kX, {3, 5, 7}}}),
      make_sample(Attrs{Activation::GeluErf}, {{kX, {307, 65}}}),
      make_sample(Attrs{Activation::Silu}, {{kX, {5, 71, 64}}}),
      make_sample(Attrs{Activation::Relu}, {{kX, {13, 7}}}),
      make_sample(Attrs{Activation::None}, {{kX, {3, 33}}}),
      make_sample(Attrs{Activation::GeluTanh}, {{kX, {20011}}}),
  };
}

void SwiGlu::infer(const Attrs&, SlotSpecs& s) {
  TensorSpec y = s[kX];
  require_floating(name, y);
  require(y.last() % 2 == 0, ErrorKind::Internal, "swiglu: x is {}, its last dim is odd", to_string(y));
  y.shape[-1] /= 2;
  s.set(kY, y);
}
std::int64_t SwiGlu::flops(const Attrs&, const SlotSpecs& s, Phase phase) {
  return per_element(s[kX].elements() / 2, phase, 20, 30);
}
std::vector<Sample<SwiGlu::Attrs>> SwiGlu::samples() {
  return {
      make_sample(Attrs{}, {{kX, {3, 5, 14}}}),
      make_sample(Attrs{}, {{kX, {19, 66}}}),
      make_sample(Attrs{}, {{kX, {2, 131, 130}}}),
      make_sample(Attrs{}, {{kX, {3, 12002}}}),
  };
}

void Add::infer(const Attrs&, SlotSpecs& s) {
  require_floating(name, s[kA]);
  require(s[kA] == s[kB], ErrorKind::Internal, "add: a is {}, b is {}", to_string(s[kA]), to_string(s[kB]));
  s.set(kY, TensorSpec(s[kA]));
}
std::int64_t Add::flops(const Attrs&, const SlotSpecs& s, Phase phase) {
  return per_element(s[kA].elements(), phase, 1, 0);
}
std::vector<Sample<Add::Attrs>> Add::samples() {
  return {
      make_sample(Attrs{}, {{kA, {3, 5, 7}}, {kB, {3, 5, 7}}}),
      make_sample(Attrs{}, {{kA, {307, 65}}, {kB, {307, 65}}}),
  };
}

void Scale::infer(const Attrs&, SlotSpecs& s) {
  require_floating(name, s[kX]);
  s.set(kY, TensorSpec(s[kX]));
}
std::int64_t Scale::flops(const Attrs&, const SlotSpecs& s, Phase phase) {
  return per_element(s[kX].elements(), phase, 1, 1);
}
std::vector<Sample<Scale::Attrs>> Scale::samples() {
  return {
      make_sample(Attrs{0.125}, {{kX, {3, 5, 7}}}),
      make_sample(Attrs{-3.7}, {{kX, {307, 65}}}),
  };
}

void Cast::infer(const Attrs& a, SlotSpecs& s) {
  require_floating(name, s[kX]);
  require(is_floating(a.to), ErrorKind::Internal, "cast: {} is not a floating dtype", dtype_name(a.to));
  s.set(kY, {s[kX].shape, a.to});
}
std::int64_t Cast::flops(const Attrs&, const SlotSpecs&, Phase) { return 0; }
std::vector<Sample<Cast::Attrs>> Cast::samples() {
  return {
      make_sample(Attrs{DType::f64}, {{kX, {3, 5, 7}}}),
      make_sample(Attrs{DType::f32}, {{kX, {19, 33}}}),
      make_sample(Attrs{DType::bf16}, {{kX, {19, 33}}}),
      make_sample(Attrs{DType::f16}, {{kX, {307, 65}}}),
      make_sample(Attrs{DType::f64}, {{kX, {19, 33}, DType::bf16}}),
      make_sample(Attrs{DType::f64}, {{kX, {19, 33}, DType::f16}}),
  };
}

void Dropout::infer(const Attrs& a, SlotSpecs& s) {
  require_floating(name, s[kX]);
  require(a.p >= 0 && a.p < 1, ErrorKind::Internal, "dropout: p is {}, not in [0, 1)", a.p);
  require(a.columns == 0 || (s[kX].shape.rank() == 3 && a.first_column + s[kX].shape[1] <= a.columns),
          ErrorKind::Internal, "dropout: columns from {} of {} are {}", a.first_column, a.columns, to_string(s[kX]));
  s.set(kY, TensorSpec(s[kX]));
}
std::int64_t Dropout::flops(const Attrs&, const SlotSpecs& s, Phase phase) {
  return per_element(s[kX].elements(), phase, 1, 1);
}
std::vector<Sample<Dropout::Attrs>> Dropout::samples() {
  return {
      make_sample(Attrs{0.1, 3}, {{kX, {3, 5, 7}}}),
      make_sample(Attrs{0.5, stream_id("residual")}, {{kX, {19, 33}}}),
      make_sample(Attrs{0.0, 4}, {{kX, {2, 17}}}),
      make_sample(Attrs{0.25, 5}, {{kX, {3, 97, 67}}}),
      make_sample(Attrs{0.25, 5, 6, 24}, {{kX, {3, 6, 11}}}),
  };
}

}  // namespace plimsoll
