#include "runtime/ops/norm.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kForwardFlops = 8, kBackwardFlops = 16;  // per element, parameter gradients included

std::int64_t norm_flops(std::int64_t elements, Phase phase) {
  if (phase == Phase::Forward) return kForwardFlops * elements;
  return phase == Phase::InputGrad ? kBackwardFlops * elements : 0;
}

std::int64_t partial_bytes(const TensorSpec& x, std::int64_t rows, std::int64_t columns, Phase phase) {
  return phase == Phase::InputGrad ? norm_row_blocks(rows) * columns * dtype_bytes(wide_dtype(x.dtype)) : 0;
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
constexpr bool kCentered = requires {
  Op::kMean;
};
template <class Op>
constexpr bool kAdds = requires {
  Op::kSum;
};

}  // namespace

template <class Op>
void Norm<Op>::infer(const Attrs&, SlotSpecs& s) {
  const TensorSpec x = s[Op::kX], per_row{{x.rows()}, x.dtype};
  require_parameters<Op>(s, x);
  if constexpr (kAdds<Op>) {
    require(s[Op::kResidual] == x, ErrorKind::Internal, "{}: residual is {}, x is {}", Op::name,
            to_string(s[Op::kResidual]), to_string(x));
    s.set(Op::kSum, x);
  }
  s.set(Op::kY, x);
  if constexpr (kCentered<Op>) s.set(Op::kMean, per_row);
  s.set(Op::kRstd, per_row);
}

// One more per element for x + residual, and in backward for the gradient of the sum.
template <class Op>
std::int64_t Norm<Op>::flops(const Attrs&, const SlotSpecs& s, Phase phase) {
  const std::int64_t elements = s[Op::kX].elements(), flops = norm_flops(elements, phase);
  return kAdds<Op> && flops > 0 ? flops + elements : flops;
}

template <class Op>
std::int64_t Norm<Op>::workspace_bytes(const Attrs&, const SlotSpecs& s, Phase phase, int) {
  const TensorSpec& x = s[Op::kX];
  return partial_bytes(x, x.rows(), (kCentered<Op> ? 2 : 1) * x.last(), phase);
}

template <class Op>
std::vector<Sample<NormAttrs>> Norm<Op>::samples() {
  struct Case {
    Shape x;
    bool bias = true;
    double eps = 1e-5;
  };
  std::vector<Sample<Attrs>> all;
  for (const Case& c :
       {Case{{3, 5, 7}}, Case{{19, 33}, false, 1e-3}, Case{{2, 17, 64}}, Case{{1, 2}}, Case{{3, 91, 97}}}) {
    Sample<Attrs>& sample = all.emplace_back(make_sample(Attrs{c.eps}, {{Op::kX, c.x}, {Op::kWeight, {c.x[-1]}}}));
    if constexpr (kAdds<Op>) sample.in.set(Op::kResidual, sample.in[Op::kX]);
    if constexpr (kCentered<Op>) {
      if (c.bias) sample.in.set(Op::kBias, sample.in[Op::kWeight]);
    }
  }
  return all;
}

template struct Norm<LayerNorm>;
template struct Norm<RmsNorm>;
template struct Norm<AddLayerNorm>;
template struct Norm<AddRmsNorm>;

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
