#include "runtime/ops/linear.hpp"

namespace plimsoll {

void Linear::infer(const Attrs& a, SlotSpecs& s) {
  const TensorSpec &x = s[kX], &weight = s[kWeight];
  require(weight.shape.rank() == 2 && x.shape.rank() >= 1 && is_floating(x.dtype) && x.dtype == weight.dtype &&
              x.last() == weight.shape[a.weight_in_out ? 0 : 1],
          ErrorKind::Internal, "linear: x is {}, weight is {} [{}]", to_string(x), to_string(weight),
          a.weight_in_out ? "in, out" : "out, in");
  TensorSpec y = x;
  y.shape[-1] = weight.shape[a.weight_in_out ? 1 : 0];
  require(!s.has(kBias) || s[kBias] == TensorSpec{{y.last()}, x.dtype}, ErrorKind::Internal,
          "linear: bias is {}, y is {}", to_string(s[kBias]), to_string(y));
  s.set(kY, y);
  if (a.activation != Activation::None && a.keeps_pre) s.set(kPre, y);
}

// The product alone: bias and activation ride along.
std::int64_t Linear::flops(const Attrs&, const SlotSpecs& s, Phase phase) {
  if (phase != Phase::Forward && phase != Phase::InputGrad && phase != Phase::WeightGrad) return 0;
  return matmul_flops(s[kX].rows(), s[kWeight].shape[0], s[kWeight].shape[1]);
}

std::int64_t Linear::workspace_bytes(const Attrs&, const SlotSpecs&, Phase, int threads) {
  return product_workspace_bytes(threads);
}

std::vector<Sample<Linear::Attrs>> Linear::samples() {
  return {
      make_sample(Attrs{}, {{kX, {3, 5}}, {kWeight, {4, 5}}}),
      make_sample(Attrs{true}, {{kX, {2, 3, 7}}, {kWeight, {7, 9}}, {kBias, {9}}}),
      make_sample(Attrs{true, Activation::GeluTanh}, {{kX, {2, 5, 6}}, {kWeight, {6, 17}}, {kBias, {17}}}),
      make_sample(Attrs{false, Activation::GeluErf}, {{kX, {13, 3}}, {kWeight, {19, 3}}, {kBias, {19}}}),
      make_sample(Attrs{false, Activation::Silu}, {{kX, {3, 3, 11}}, {kWeight, {8, 11}}}),
      make_sample(Attrs{false}, {{kX, {37, 33}}, {kWeight, {65, 33}}, {kBias, {65}}}),
  };
}

}  // namespace plimsoll
