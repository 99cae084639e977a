#include "runtime/ops/embedding.hpp"

namespace plimsoll {

void Embedding::infer(const Attrs&, SlotSpecs& s) {
  const TensorSpec &tokens = s[kTokens], &weight = s[kWeight];
  require(tokens.dtype == DType::i32 && tokens.shape.rank() == 2, ErrorKind::Internal,
          "embedding: tokens is {}, not i32 [B, T]", to_string(tokens));
  require(weight.shape.rank() == 2 && is_floating(weight.dtype), ErrorKind::Internal, "embedding: weight is {}",
          to_string(weight));
  if (s.has(kPositions)) {
    const TensorSpec& positions = s[kPositions];
    require(positions.shape.rank() == 2 && positions.last() == weight.last() && positions.dtype == weight.dtype &&
                positions.shape[0] >= tokens.shape[1],
            ErrorKind::Internal, "embedding: positions is {}, weight is {}, tokens is {}", to_string(positions),
            to_string(weight), to_string(tokens));
  }
  s.set(kY, {{tokens.shape[0], tokens.shape[1], weight.last()}, weight.dtype});
}

std::int64_t Embedding::flops(const Attrs&, const SlotSpecs& s, Phase phase) {
  const std::int64_t elements = s[kTokens].elements() * s[kWeight].last();
  const std::int64_t positions = s.has(kPositions) ? elements : 0;
  if (phase == Phase::Forward) return positions;
  return phase == Phase::InputGrad ? elements + positions : 0;
}

std::vector<Sample<Embedding::Attrs>> Embedding::samples() {
  return {
      make_sample(Attrs{}, {{kTokens, {3, 5}, DType::i32}, {kWeight, {11, 7}}, {kPositions, {9, 7}}}, 11),
      make_sample(Attrs{}, {{kTokens, {2, 9}, DType::i32}, {kWeight, {5, 33}}}, 5),
      make_sample(Attrs{}, {{kTokens, {4, 13}, DType::i32}, {kWeight, {29, 64}}, {kPositions, {17, 64}}}, 29),
      make_sample(Attrs{}, {{kTokens, {3, 53}, DType::i32}, {kWeight, {101, 130}}, {kPositions, {61, 130}}}, 101),
  };
}

}  // namespace plimsoll
