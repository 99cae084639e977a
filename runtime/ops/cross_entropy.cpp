#include "runtime/ops/cross_entropy.hpp"

namespace plimsoll {

void CrossEntropy::infer(const Attrs& a, SlotSpecs& s) {
  const TensorSpec &x = s[kX], &weight = s[kWeight], &targets = s[kTargets];
  require(x.shape.rank() == 3 && weight.shape.rank() == 2 && x.last() == weight.last() && is_floating(x.dtype) &&
              x.dtype == weight.dtype,
          ErrorKind::Internal, "cross_entropy: x is {}, weight is {}", to_string(x), to_string(weight));
  require(targets == TensorSpec{{x.shape[0], x.shape[1]}, DType::i32}, ErrorKind::Internal,
          "cross_entropy: targets is {}, x is {}", to_string(targets), to_string(x));
  require(a.chunk_rows >= 0, ErrorKind::Internal, "cross_entropy: chunks of {} rows", a.chunk_rows);
  s.set(kLoss, {{2}, DType::f64});
}

// The products: logits; in backward also dx and dW.
std::int64_t CrossEntropy::flops(const Attrs&, const SlotSpecs& s, Phase phase) {
  const std::int64_t product = matmul_flops(s[kX].rows(), s[kWeight].shape[0], s[kWeight].shape[1]);
  if (phase == Phase::Forward) return product;
  return phase == Phase::InputGrad ? 3 * product : 0;
}

// The logits of a chunk, each row padded to 64 bytes, and the loss of each of its rows in fp64.
std::int64_t CrossEntropy::workspace_bytes(const Attrs& a, const SlotSpecs& s, Phase phase, int) {
  if (phase != Phase::Forward && phase != Phase::InputGrad) return 0;
  const std::int64_t row_bytes = (s[kWeight].shape[0] * dtype_bytes(s[kX].dtype) + 63) / 64 * 64;
  return a.rows_per_chunk(s[kX].rows()) * (row_bytes + std::int64_t{sizeof(double)});
}

std::vector<Sample<CrossEntropy::Attrs>> CrossEntropy::samples() {
  return {
      make_sample(Attrs{}, {{kX, {2, 3, 5}}, {kWeight, {11, 5}}, {kTargets, {2, 3}, DType::i32}}, 11),
      make_sample(Attrs{4}, {{kX, {3, 3, 7}}, {kWeight, {33, 7}}, {kTargets, {3, 3}, DType::i32}}, 33),
      make_sample(Attrs{5}, {{kX, {1, 10, 16}}, {kWeight, {64, 16}}, {kTargets, {1, 10}, DType::i32}}, 64),
  };
}

}  // namespace plimsoll
