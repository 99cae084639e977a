#include "runtime/ops/fp8.hpp"

namespace plimsoll {
namespace {

const TensorSpec kScalingSpec{{2, kFp8Roles}, DType::f32};

void require_scaling(std::string_view op, const TensorSpec& scaling) {
  require(scaling == kScalingSpec, ErrorKind::Internal, "{}: scaling is {}", op, to_string(scaling));
}

}  // namespace

void QuantizeFp8::infer(const Attrs&, SlotSpecs& s) {
  require(s[kX].shape.rank() >= 1 && is_floating(s[kX].dtype) && !is_fp8(s[kX].dtype), ErrorKind::Internal,
          "quantize_fp8: x is {}", to_string(s[kX]));
  require_scaling(name, s[kScaling]);
  s.set(kY, {s[kX].shape, DType::f8e4m3});
}
std::int64_t QuantizeFp8::flops(const Attrs&, const SlotSpecs&, Phase) { return 0; }
std::vector<Sample<QuantizeFp8::Attrs>> QuantizeFp8::samples() {
  return {
      make_sample(Attrs{}, {{kX, {3, 5, 7}}, {kScaling, {2, kFp8Roles}, DType::f32}}),
      make_sample(Attrs{}, {{kX, {307, 65}}, {kScaling, {2, kFp8Roles}, DType::f32}}),
  };
}

void LinearFp8::infer(const Attrs& a, SlotSpecs& s) {
  const TensorSpec &x = s[kX], &weight = s[kWeight];
  require(weight.shape.rank() == 2 && x.shape.rank() >= 1 && is_floating(x.dtype) && x.dtype == weight.dtype &&
              x.last() == weight.shape[a.weight_in_out ? 0 : 1] && s[kX8] == TensorSpec{x.shape, DType::f8e4m3},
          ErrorKind::Internal, "linear_fp8: x is {}, x8 is {}, weight is {} [{}]", to_string(x), to_string(s[kX8]),
          to_string(weight), a.weight_in_out ? "in, out" : "out, in");
  require_scaling(name, s[kScaling]);
  TensorSpec y = x;
  y.shape[-1] = weight.shape[a.weight_in_out ? 1 : 0];
  require(!s.has(kBias) || s[kBias] == TensorSpec{{y.last()}, x.dtype}, ErrorKind::Internal,
          "linear_fp8: bias is {}, y is {}", to_string(s[kBias]), to_string(y));
  s.set(kY, y);
}

std::int64_t LinearFp8::flops(const Attrs&, const SlotSpecs& s, Phase phase) {
  if (phase != Phase::Forward && phase != Phase::InputGrad && phase != Phase::WeightGrad) return 0;
  return matmul_flops(s[kX].rows(), s[kWeight].shape[0], s[kWeight].shape[1]);
}

std::array<std::int64_t, 2> LinearFp8::made_elements(const SlotSpecs& s, Phase phase, int threads) {
  const std::int64_t x = s[kX].elements(), weight = s[kWeight].elements(), y = s[kY].elements();
  if (phase == Phase::Forward) return {threads == kDeviceThreads ? 0 : x, weight};
  if (phase == Phase::InputGrad) return {y, weight};
  if (phase == Phase::WeightGrad) return {y, x};
  return {};
}

std::int64_t LinearFp8::workspace_bytes(const Attrs&, const SlotSpecs& s, Phase phase, int threads) {
  const auto [first, second] = made_elements(s, phase, threads);
  if (second == 0) return 0;
  // Nothing is planned that is not written: behind the second operand of the host comes nothing.
  if (threads != kDeviceThreads) {
    const int bytes = static_cast<int>(dtype_bytes(s[kX].dtype));
    return fp8_operand_bytes(first, bytes) + second * bytes;
  }
  return fp8_operand_bytes(first, 1) + fp8_operand_bytes(second, 1) + kFp8Alignment + product_workspace_bytes(threads);
}

std::vector<Sample<LinearFp8::Attrs>> LinearFp8::samples() {
  const auto sample = [](Attrs a, const Shape& x, const Shape& weight, std::int64_t bias) {
    auto made =
        make_sample(a, {{kX, x}, {kX8, x, DType::f8e4m3}, {kWeight, weight}, {kScaling, {2, kFp8Roles}, DType::f32}});
    if (bias > 0) made.in.set(kBias, {{bias}, DType::f64});
    return made;
  };
  return {
      sample({}, {16, 48}, {32, 48}, 0),
      sample({true}, {2, 8, 32}, {32, 80}, 80),
      sample({false}, {3, 16, 80}, {64, 80}, 64),
      sample({true}, {48, 16}, {16, 144}, 0),
  };
}

void UpdateFp8Scales::infer(const Attrs&, SlotSpecs& s) {
  const TensorSpec &scaling = s[kScaling], &history = s[kHistory];
  const std::int64_t linears = scaling.shape.rank() == 0 ? 0 : scaling.shape[0];
  require(scaling == TensorSpec{{linears, 2, kFp8Roles}, DType::f32} &&
              history == TensorSpec{{linears, kFp8Roles, kFp8History}, DType::f32},
          ErrorKind::Internal, "update_fp8_scales: scaling is {}, history is {}", to_string(scaling),
          to_string(history));
}
std::int64_t UpdateFp8Scales::flops(const Attrs&, const SlotSpecs& s, Phase phase) {
  return phase == Phase::Update ? s[kHistory].elements() : 0;
}
std::vector<Sample<UpdateFp8Scales::Attrs>> UpdateFp8Scales::samples() {
  const auto sample = [](std::int64_t n) {
    return make_sample(
        Attrs{}, {{kScaling, {n, 2, kFp8Roles}, DType::f32}, {kHistory, {n, kFp8Roles, kFp8History}, DType::f32}});
  };
  return {sample(5), sample(131)};
}

}  // namespace plimsoll
