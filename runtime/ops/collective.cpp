#include "runtime/ops/collective.hpp"

#include <algorithm>

namespace plimsoll {

std::vector<Sample<AllReduce::Attrs>> AllReduce::samples() { return {make_sample(Attrs{"data", 2}, {{kX, {37}}})}; }

template <Phase sums>
void SumOverRanks<sums>::infer(const Attrs& a, SlotSpecs& s) {
  require(a.ranks >= 1 && is_floating(s[kX].dtype), ErrorKind::Internal, "sum of {} over {} ranks", to_string(s[kX]),
          a.ranks);
  s.set(kY, s[kX]);
}

template <Phase sums>
std::int64_t SumOverRanks<sums>::workspace_bytes(const Attrs& a, const SlotSpecs& s, Phase phase, int) {
  if (phase != sums || a.ranks == 1) return 0;
  const std::int64_t share = (s[kX].elements() + a.ranks - 1) / a.ranks;
  return reduce_scratch_bytes(a.ranks, share * dtype_bytes(s[kX].dtype));
}

template <Phase sums>
std::vector<Sample<AxisAttrs>> SumOverRanks<sums>::samples() {
  return {
      make_sample(Attrs{"tensor", 2}, {{kX, {3, 5}}}),
      make_sample(Attrs{"tensor", 3}, {{kX, {2, 3, 7}}}),
      make_sample(Attrs{"tensor", 1}, {{kX, {4}}}),
  };
}

template struct SumOverRanks<Phase::Forward>;
template struct SumOverRanks<Phase::InputGrad>;

namespace {

// Elements of several tensors, and of those what a rank has.
struct JoinedElements {
  std::int64_t mine = 0, all = 0;
};
template <class Attrs>
JoinedElements joined_elements(const Attrs& a) {
  JoinedElements elements;
  for (const JoinedPart& part : a.parts) {
    elements.mine += range_of_rank(part.elements, a.rank, a.ranks, part.cuts).count;
    elements.all += part.elements;
  }
  return elements;
}

}  // namespace

void GatherUnits::infer(const Attrs& a, SlotSpecs& s) {
  const auto [mine, all] = joined_elements(a);
  require(a.ranks >= 1 && s[kX].shape.rank() == 1 && s[kX].elements() == mine && is_floating(s[kX].dtype),
          ErrorKind::Internal, "gather_units: x is {}, of {} parts rank {} of {} has {} elements", to_string(s[kX]),
          a.parts.size(), a.rank, a.ranks, mine);
  s.set(kY, {{all}, s[kX].dtype});
}

std::vector<Sample<GatherUnits::Attrs>> GatherUnits::samples() {
  return {make_sample(Attrs{"shard", 2, 0, {{6, {}}, {8, {}}}}, {{kX, {7}}}),
          make_sample(Attrs{"shard", 2, 1, {{6, {}}, {8, {0, 7, 8}}}}, {{kX, {4}}}),
          make_sample(Attrs{"shard", 1, 0, {{5, {}}}}, {{kX, {5}}})};
}

void ReduceUnits::infer(const Attrs& a, SlotSpecs& s) {
  const auto [mine, all] = joined_elements(a);
  require(a.ranks >= 1 && s[kX].shape.rank() == 1 && s[kX].elements() == all && is_floating(s[kX].dtype),
          ErrorKind::Internal, "reduce_units: x is {}, and {} parts have {} elements", to_string(s[kX]), a.parts.size(),
          all);
  if (!a.in_place) s.set(kY, {{mine}, s[kX].dtype});
}

std::int64_t ReduceUnits::workspace_bytes(const Attrs& a, const SlotSpecs& s, Phase, int) {
  return reduce_scratch_bytes(a.ranks, joined_elements(a).mine * dtype_bytes(s[kX].dtype));
}

std::vector<Sample<ReduceUnits::Attrs>> ReduceUnits::samples() {
  return {make_sample(Attrs{"shard", 2, 0, {{6, {}}, {8, {}}}}, {{kX, {14}}}),
          make_sample(Attrs{"shard", 2, 1, {{6, {}}, {8, {0, 7, 8}}}}, {{kX, {14}}}),
          make_sample(Attrs{"shard", 2, 1, {{6, {}}, {8, {}}}, true}, {{kX, {14}}}),
          make_sample(Attrs{"shard", 1, 0, {{5, {}}}}, {{kX, {5}}})};
}

RankBlocks rank_blocks(const TensorSpec& part, int dim) {
  RankBlocks b;
  for (int d = 0; d < dim; ++d) b.outer *= part.shape[d];
  b.block_bytes = part.bytes() / b.outer;
  return b;
}

std::int64_t reorder_bytes(const DimAttrs& a, const TensorSpec& part) {
  return a.ranks == 1 || rank_blocks(part, a.dim).outer == 1 ? 0 : a.ranks * part.bytes();
}

template <Phase sums>
void AlongDim<sums>::infer(const Attrs& a, SlotSpecs& s) {
  constexpr std::string_view what = sums == Phase::Forward ? ReduceScatter::name : AllGather::name;
  TensorSpec y = s[kX];
  require(a.ranks >= 1 && a.dim >= 0 && a.dim < y.shape.rank() && is_floating(y.dtype), ErrorKind::Internal,
          "{}: x is {}, dim {}, {} ranks", what, to_string(y), a.dim, a.ranks);
  if (!a.cuts.empty()) {
    const bool cut = a.dim == 0 && std::ssize(a.cuts) == a.ranks + 1 && a.cuts.front() == 0 &&
                     std::is_sorted(a.cuts.begin(), a.cuts.end()) && a.rank >= 0 && a.rank < a.ranks;
    require(cut, ErrorKind::Internal, "{}: dim {}, {} cuts for {} ranks, of which this is {}", what, a.dim,
            a.cuts.size(), a.ranks, a.rank);
    const std::int64_t all = a.cuts.back(), mine = range_of_rank(all, a.rank, a.ranks, a.cuts).count;
    require(y.shape[0] == (sums == Phase::Forward ? all : mine), ErrorKind::Internal,
            "{}: x is {}, but rank {} has {} of {}", what, to_string(y), a.rank, mine, all);
    y.shape[0] = sums == Phase::Forward ? mine : all;
  } else if (sums == Phase::Forward) {
    require(y.shape[a.dim] % a.ranks == 0, ErrorKind::Internal, "{}: dim {} of {} is not a multiple of {} ranks", what,
            a.dim, to_string(y), a.ranks);
    y.shape[a.dim] /= a.ranks;
  } else {
    y.shape[a.dim] *= a.ranks;
  }
  s.set(kY, y);
}

template <Phase sums>
std::int64_t AlongDim<sums>::workspace_bytes(const Attrs& a, const SlotSpecs& s, Phase phase, int) {
  if (phase != Phase::Forward && phase != Phase::InputGrad) return 0;
  const std::int64_t scratch = phase == sums ? reduce_scratch_bytes(a.ranks, s[part].bytes()) : 0;
  return reorder_bytes(a, s[part]) + scratch;
}

template <Phase sums>
std::vector<Sample<DimAttrs>> AlongDim<sums>::samples() {
  return {
      make_sample(Attrs{"tensor", 2, 0}, {{kX, {6, 5}}}),    make_sample(Attrs{"tensor", 3, 1}, {{kX, {2, 6, 5}}}),
      make_sample(Attrs{"tensor", 2, 2}, {{kX, {3, 2, 4}}}), make_sample(Attrs{"tensor", 4, 1}, {{kX, {1, 4, 3}}}),
      make_sample(Attrs{"tensor", 1, 1}, {{kX, {2, 3}}}),
  };
}

template struct AlongDim<Phase::Forward>;
template struct AlongDim<Phase::InputGrad>;

}  // namespace plimsoll
