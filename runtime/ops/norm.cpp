#include "runtime/ops/norm.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kForwardFlops = 8, kBackwardFlops = 16;  // per element, parameter gradients included

std::int64_t norm_flops(std::int64_t elements, Phase phase) {
  if (phase == Phase::Forward) return kForwardFlops * elements;
  return phase == Phase::InputGrad ? kBackwardFlops * elements : 0;
}

// With the addition of the residual, in backward of the gradient of the sum.
std::int64_t add_norm_flops(std::int64_t elements, Phase phase) {
  const std::int64_t flops = norm_flops(elements, phase);
  return flops == 0 ? 0 : flops + elements;
}

std::int64_t partial_bytes(const TensorSpec& x, std::int64_t rows, std::int64_t columns, Phase phase) {
  return phase == Phase::InputGrad ? norm_row_blocks(rows) * columns * dtype_bytes(x.dtype) : 0;
}

void require_vector(std::string_view op, const Slot& slot, const TensorSpec& spec, std::int64_t length, DType dtype) {
  require(spec == TensorSpec{{length}, dtype}, ErrorKind::Internal, "{}: {} is {}, not {}", op, slot.name,
          to_string(spec), to_string(TensorSpec{{length}, dtype}));
}

template <class Op>
void require_parameters(const SlotSpecs& s, const TensorSpec& x) {
  require(x.shape.rank() >= 1 && is_floating(x.dtype), ErrorKind::Internal, "{}: x is {}", Op::name, to_string(x));
  for (std::size_t i = 0; i < Op::slots.size(); ++i) {
    const int slot = static_cast<int>(i);
    if (Op::slots[i].role == Role::Param && s.has(slot)) {
      require_vector(Op::name, Op::slots[i], s[slot], x.last(), x.dtype);
    }
  }
}

template <class Op>
void require_residual(const SlotSpecs& s) {
  require(s[Op::kResidual] == s[Op::kX], ErrorKind::Internal, "{}: residual is {}, x is {}", Op::name,
          to_string(s[Op::kResidual]), to_string(s[Op::kX]));
}

TensorSpec per_row(const TensorSpec& x) { return {{x.rows()}, x.dtype}; }

}  // namespace

void LayerNorm::infer(const Attrs&, SlotSpecs& s) {
  const TensorSpec x = s[kX];
  require_parameters<LayerNorm>(s, x);
  s.set(kY, x);
  s.set(kMean, per_row(x));
  s.set(kRstd, per_row(x));
}
std::int64_t LayerNorm::flops(const Attrs&, const SlotSpecs& s, Phase phase) {
  return norm_flops(s[kX].elements(), phase);
}
std::int64_t LayerNorm::workspace_bytes(const Attrs&, const SlotSpecs& s, Phase phase, int) {
  return partial_bytes(s[kX], s[kX].rows(), 2 * s[kX].last(), phase);
}
std::vector<Sample<LayerNorm::Attrs>> LayerNorm::samples() {
  return {
      make_sample(Attrs{}, {{kX, {3, 5, 7}}, {kWeight, {7}}, {kBias, {7}}}),
      make_sample(Attrs{1e-3}, {{kX, {19, 33}}, {kWeight, {33}}}),
      make_sample(Attrs{}, {{kX, {2, 17, 64}}, {kWeight, {64}}, {kBias, {64}}}),
      make_sample(Attrs{}, {{kX, {1, 2}}, {kWeight, {2}}, {kBias, {2}}}),
      make_sample(Attrs{}, {{kX, {3, 91, 97}}, {kWeight, {97}}, {kBias, {97}}}),
  };
}

void RmsNorm::infer(const Attrs&, SlotSpecs& s) {
  const TensorSpec x = s[kX];
  require_parameters<RmsNorm>(s, x);
  s.set(kY, x);
  s.set(kRstd, per_row(x));
}
std::int64_t RmsNorm::flops(const Attrs&, const SlotSpecs& s, Phase phase) {
  return norm_flops(s[kX].elements(), phase);
}
std::int64_t RmsNorm::workspace_bytes(const Attrs&, const SlotSpecs& s, Phase phase, int) {
  return partial_bytes(s[kX], s[kX].rows(), s[kX].last(), phase);
}
std::vector<Sample<RmsNorm::Attrs>> RmsNorm::samples() {
  return {
      make_sample(Attrs{}, {{kX, {3, 5, 7}}, {kWeight, {7}}}),
      make_sample(Attrs{1e-3}, {{kX, {19, 33}}, {kWeight, {33}}}),
      make_sample(Attrs{}, {{kX, {2, 17, 64}}, {kWeight, {64}}}),
      make_sample(Attrs{}, {{kX, {3, 91, 97}}, {kWeight, {97}}}),
  };
}

void AddLayerNorm::infer(const Attrs&, SlotSpecs& s) {
  const TensorSpec x = s[kX];
  require_residual<AddLayerNorm>(s);
  require_parameters<AddLayerNorm>(s, x);
  s.set(kSum, x);
  s.set(kY, x);
  s.set(kMean, per_row(x));
  s.set(kRstd, per_row(x));
}
std::int64_t AddLayerNorm::flops(const Attrs&, const SlotSpecs& s, Phase phase) {
  return add_norm_flops(s[kX].elements(), phase);
}
std::int64_t AddLayerNorm::workspace_bytes(const Attrs&, const SlotSpecs& s, Phase phase, int) {
  return partial_bytes(s[kX], s[kX].rows(), 2 * s[kX].last(), phase);
}
std::vector<Sample<AddLayerNorm::Attrs>> AddLayerNorm::samples() {
  return {
      make_sample(Attrs{}, {{kX, {3, 5, 7}}, {kResidual, {3, 5, 7}}, {kWeight, {7}}, {kBias, {7}}}),
      make_sample(Attrs{1e-3}, {{kX, {19, 33}}, {kResidual, {19, 33}}, {kWeight, {33}}}),
      make_sample(Attrs{}, {{kX, {2, 17, 64}}, {kResidual, {2, 17, 64}}, {kWeight, {64}}, {kBias, {64}}}),
      make_sample(Attrs{}, {{kX, {3, 91, 97}}, {kResidual, {3, 91, 97}}, {kWeight, {97}}, {kBias, {97}}}),
  };
}

void AddRmsNorm::infer(const Attrs&, SlotSpecs& s) {
  const TensorSpec x = s[kX];
  require_residual<AddRmsNorm>(s);
  require_parameters<AddRmsNorm>(s, x);
  s.set(kSum, x);
  s.set(kY, x);
  s.set(kRstd, per_row(x));
}
std::int64_t AddRmsNorm::flops(const Attrs&, const SlotSpecs& s, Phase phase) {
  return add_norm_flops(s[kX].elements(), phase);
}
std::int64_t AddRmsNorm::workspace_bytes(const Attrs&, const SlotSpecs& s, Phase phase, int) {
  return partial_bytes(s[kX], s[kX].rows(), s[kX].last(), phase);
}
std::vector<Sample<AddRmsNorm::Attrs>> AddRmsNorm::samples() {
  return {
      make_sample(Attrs{}, {{kX, {3, 5, 7}}, {kResidual, {3, 5, 7}}, {kWeight, {7}}}),
      make_sample(Attrs{1e-3}, {{kX, {19, 33}}, {kResidual, {19, 33}}, {kWeight, {33}}}),
      make_sample(Attrs{}, {{kX, {2, 17, 64}}, {kResidual, {2, 17, 64}}, {kWeight, {64}}}),
      make_sample(Attrs{}, {{kX, {3, 91, 97}}, {kResidual, {3, 91, 97}}, {kWeight, {97}}}),
  };
}

void HeadNorm::infer(const Attrs& a, SlotSpecs& s) {
  const TensorSpec x = s[kX];
  const std::int64_t width = std::int64_t{a.heads + 2 * a.kv_heads} * a.head_dim;
  require(x.shape.rank() == 3 && x.last() == width && is_floating(x.dtype), ErrorKind::Internal,
          "head_norm: x is {}, but {} query and {} key heads of {} are {} wide", to_string(x), a.heads, a.kv_heads,
          a.head_dim, width);
  require_vector(name, slots[kQueryWeight], s[kQueryWeight], a.head_dim, x.dtype);
  require_vector(name, slots[kKeyWeight], s[kKeyWeight], a.head_dim, x.dtype);
  s.set(kY, x);
  s.set(kRstd, {{x.shape[0], x.shape[1], a.heads + a.kv_heads}, x.dtype});
}
std::int64_t HeadNorm::flops(const Attrs& a, const SlotSpecs& s, Phase phase) {
  return norm_flops(s[kX].rows() * (a.heads + a.kv_heads) * a.head_dim, phase);
}
std::int64_t HeadNorm::workspace_bytes(const Attrs& a, const SlotSpecs& s, Phase phase, int) {
  return partial_bytes(s[kX], s[kX].rows(), std::int64_t{2} * a.head_dim, phase);
}
std::vector<Sample<HeadNorm::Attrs>> HeadNorm::samples() {
  return {
      make_sample(Attrs{3, 1, 7}, {{kX, {2, 5, 35}}, {kQueryWeight, {7}}, {kKeyWeight, {7}}}),
      make_sample(Attrs{4, 2, 16, 1e-3}, {{kX, {3, 11, 128}}, {kQueryWeight, {16}}, {kKeyWeight, {16}}}),
      make_sample(Attrs{2, 1, 32}, {{kX, {3, 71, 128}}, {kQueryWeight, {32}}, {kKeyWeight, {32}}}),
      make_sample(Attrs{1, 1, 33}, {{kX, {1, 19, 99}}, {kQueryWeight, {33}}, {kKeyWeight, {33}}}),
  };
}

}  // namespace plimsoll
