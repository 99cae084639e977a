#include "runtime/ops/embedding.hpp"

namespace plimsoll {

void Embedding::infer(const Attrs& a, SlotSpecs& s) {
  require(!a.part || !s.has(kPositions), ErrorKind::Internal, "embedding: positions are added to the sum of the parts");
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
      make_sample(Attrs{true, 4}, {{kTokens, {3, 5}, DType::i32}, {kWeight, {5, 7}}}, 11),
  };
}

void AddRows::infer(const Attrs& a, SlotSpecs& s) {
  const TensorSpec &x = s[kX], &table = s[kTable];
  const bool fits =
      a.positions ? table.shape.rank() == 2 && table.shape[0] >= a.first_column + x.shape[1] : table.shape.rank() == 1;
  require(x.shape.rank() == 3 && is_floating(x.dtype) && fits && table.last() == x.last() && table.dtype == x.dtype,
          ErrorKind::Internal, "add_rows: x is {}, table is {}", to_string(x), to_string(table));
  s.set(kY, TensorSpec(x));
}

std::int64_t AddRows::flops(const Attrs&, const SlotSpecs& s, Phase phase) {
  return phase == Phase::Forward || phase == Phase::InputGrad ? s[kX].elements() : 0;
}

std::vector<Sample<AddRows::Attrs>> AddRows::samples() {
  return {
      make_sample(Attrs{}, {{kX, {3, 5, 7}}, {kTable, {7}}}),
      make_sample(Attrs{}, {{kX, {2, 41, 130}}, {kTable, {130}}}),
      make_sample(Attrs{}, {{kX, {2, 9, 24}}, {kTable, {24}}}),
      make_sample(Attrs{true, 0}, {{kX, {2, 9, 33}}, {kTable, {13, 33}}}),
      make_sample(Attrs{true, 1}, {{kX, {2, 9, 24}}, {kTable, {13, 24}}}),
      make_sample(Attrs{true, 6}, {{kX, {3, 53, 130}}, {kTable, {97, 130}}}),
  };
}

}  // namespace plimsoll
