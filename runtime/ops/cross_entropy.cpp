#include "runtime/ops/cross_entropy.hpp"

#include "runtime/ops/collective.hpp"

namespace plimsoll {

void CrossEntropy::infer(const Attrs& a, SlotSpecs& s) {
  const TensorSpec &x = s[kX], &weight = s[kWeight], &targets = s[kTargets];
  require(x.shape.rank() == 3 && weight.shape.rank() == 2 && x.last() == weight.last() && is_floating(x.dtype) &&
              x.dtype == weight.dtype,
          ErrorKind::Internal, "cross_entropy: x is {}, weight is {}", to_string(x), to_string(weight));
  require(targets == TensorSpec{{x.shape[0], x.shape[1]}, DType::i32}, ErrorKind::Internal,
          "cross_entropy: targets is {}, x is {}", to_string(targets), to_string(x));
  require(a.ranks == 1 || (a.valid_rows >= 0 && a.valid_rows <= weight.shape[0]), ErrorKind::Internal,
          "cross_entropy: {} rows of {} count", a.valid_rows, to_string(weight));
  require(a.chunk_rows >= 0, ErrorKind::Internal, "cross_entropy: chunks of {} rows", a.chunk_rows);
  s.set(kLoss, {{2}, DType::f64});
}

// The products: logits; in backward also dx and dW.
std::int64_t CrossEntropy::flops(const Attrs&, const SlotSpecs& s, Phase phase) {
  const std::int64_t product = matmul_flops(s[kX].rows(), s[kWeight].shape[0], s[kWeight].shape[1]);
  if (phase == Phase::Forward) return product;
  return phase == Phase::InputGrad ? 3 * product : 0;
}

// [what products use | what reductions receive | logits of a chunk, each row padded to 64 bytes | with ranks, of each
// row its maximum, and its sum and its target's logit in fp64 | its loss in fp64].
std::int64_t CrossEntropy::workspace_bytes(const Attrs& a, const SlotSpecs& s, Phase phase, int threads) {
  if (phase != Phase::Forward && phase != Phase::InputGrad) return 0;
  const std::int64_t row_bytes = (s[kWeight].shape[0] * dtype_bytes(s[kX].dtype) + 63) / 64 * 64;
  const std::int64_t rows = a.rows_per_chunk(s[kX].rows());
  return product_workspace_bytes(threads) + reduction_bytes(a, rows) +
         rows * (row_bytes + (a.ranks > 1 ? 4 : 1) * std::int64_t{sizeof(double)});
}

std::int64_t CrossEntropy::reduction_bytes(const Attrs& a, std::int64_t rows) {
  if (a.ranks == 1) return 0;
  const std::int64_t share = (2 * rows + a.ranks - 1) / a.ranks * std::int64_t{sizeof(double)};
  return (reduce_scratch_bytes(a.ranks, share) + 63) / 64 * 64;
}

std::vector<Sample<CrossEntropy::Attrs>> CrossEntropy::samples() {
  const auto chunks_of = [](std::int64_t rows) {
    Attrs a;
    a.chunk_rows = rows;
    return a;
  };
  return {
      make_sample(Attrs{}, {{kX, {2, 3, 5}}, {kWeight, {11, 5}}, {kTargets, {2, 3}, DType::i32}}, 11),
      make_sample(chunks_of(4), {{kX, {3, 3, 7}}, {kWeight, {33, 7}}, {kTargets, {3, 3}, DType::i32}}, 33),
      make_sample(chunks_of(5), {{kX, {1, 10, 16}}, {kWeight, {64, 16}}, {kTargets, {1, 10}, DType::i32}}, 64),
  };
}

}  // namespace plimsoll
