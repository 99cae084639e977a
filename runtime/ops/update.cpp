#include "runtime/ops/update.hpp"

namespace plimsoll {
namespace {

std::int64_t in_update(Phase phase, std::int64_t flops) { return phase == Phase::Update ? flops : 0; }

// The buffers of an optimizer step: flat, of one length and one dtype but the rounded parameters, and the norm beside
// them.
template <class Op>
void require_flat(const SlotSpecs& s, std::span<const ElementRange> decays) {
  const TensorSpec& gradients = s[Op::kGradients];
  require(gradients.shape.rank() == 1 && is_floating(gradients.dtype), ErrorKind::Internal, "{}: gradients is {}",
          Op::name, to_string(gradients));
  for (std::size_t i = 0; i < Op::slots.size(); ++i) {
    if (Op::slots[i].optional && !s.has(static_cast<int>(i))) continue;
    const TensorSpec& spec = s[static_cast<int>(i)];
    require(Op::slots[i].role != Role::State || spec == gradients, ErrorKind::Internal, "{}: {} is {}, gradients is {}",
            Op::name, Op::slots[i].name, to_string(spec), to_string(gradients));
  }
  if (s.has(Op::kRounded)) {
    const TensorSpec& rounded = s[Op::kRounded];
    require(rounded.shape == gradients.shape && rounded.dtype != gradients.dtype && is_floating(rounded.dtype) &&
                wide_dtype(rounded.dtype) == gradients.dtype,
            ErrorKind::Internal, "{}: rounded is {}, gradients is {}", Op::name, to_string(rounded),
            to_string(gradients));
  }
  require(s[Op::kNorm] == TensorSpec{{1}, DType::f64}, ErrorKind::Internal, "{}: norm is {}", Op::name,
          to_string(s[Op::kNorm]));
  std::int64_t end = -1;  // of the range before
  for (const ElementRange& range : decays) {
    require(range.first > end && range.count > 0 && range.first + range.count <= gradients.elements(),
            ErrorKind::Internal, "{}: elements {} to {} of {} are to decay, behind {}", Op::name, range.first,
            range.first + range.count, gradients.elements(), end);
    end = range.first + range.count;
  }
}

// Ranges of all sizes, more than one launch of a GPU takes.
std::vector<ElementRange> scattered(std::int64_t elements) {
  std::vector<ElementRange> ranges;
  for (std::int64_t first = 1, count = 1; first + count <= elements;
       first += count + 1 + count % 3, count = (count * 5 + 1) % 157)
    if (count > 0) ranges.push_back({first, count});
  return ranges;
}

// The first sample again with parameters that are rounded to bf16 and to f16; its `buffers` are f32 then.
template <class Attrs>
void add_rounding_samples(std::vector<Sample<Attrs>>& samples, std::initializer_list<int> buffers, int rounded) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    Sample<Attrs> sample = samples.front();
    for (const int slot : buffers) sample.in.set(slot, {sample.in[slot].shape, DType::f32});
    sample.in.set(rounded, {sample.in[*buffers.begin()].shape, dtype});
    samples.push_back(std::move(sample));
  }
}

}  // namespace

std::int64_t norm_blocks(std::span<const Segment> segments) {
  std::int64_t blocks = 0;
  for (const Segment& s : segments) blocks += (s.elements + kNormBlockElements - 1) / kNormBlockElements;
  return blocks;
}

void SquareSums::infer(const Attrs& a, SlotSpecs& s) {
  const TensorSpec& gradients = s[kGradients];
  require(gradients.shape.rank() == 1 && is_floating(gradients.dtype), ErrorKind::Internal,
          "square_sums: gradients is {}", to_string(gradients));
  for (const Segment& segment : a.segments) {
    require(segment.offset >= 0 && segment.elements >= 0 && segment.offset + segment.elements <= gradients.elements() &&
                segment.tensor >= 0 && segment.tensor < a.tensors,
            ErrorKind::Internal, "square_sums: elements {} to {} of tensor {} lie outside {} or {} tensors",
            segment.offset, segment.offset + segment.elements, segment.tensor, to_string(gradients), a.tensors);
  }
  s.set(kSums, {{a.tensors}, DType::f64});
}
std::int64_t SquareSums::flops(const Attrs&, const SlotSpecs& s, Phase phase) {
  return in_update(phase, 2 * s[kGradients].elements());
}
std::int64_t SquareSums::workspace_bytes(const Attrs& a, const SlotSpecs&, Phase phase, int) {
  return in_update(phase, norm_blocks(a.segments) * dtype_bytes(DType::f64));
}
std::vector<Sample<SquareSums::Attrs>> SquareSums::samples() {
  return {
      make_sample(Attrs{{{0, 7, 0}, {7, 33, 2}, {64, 37, 0}}, 3}, {{kGradients, {101}}}),
      make_sample(Attrs{{{0, 40000, 1}, {40064, 64, 0}, {40128, 1, 2}}, 4}, {{kGradients, {40129}}}),
  };
}

void GlobalNorm::infer(const Attrs&, SlotSpecs& s) {
  require(s[kSums].shape.rank() == 1 && s[kSums].dtype == DType::f64, ErrorKind::Internal, "global_norm: sums is {}",
          to_string(s[kSums]));
  s.set(kNorm, {{1}, DType::f64});
}
std::int64_t GlobalNorm::flops(const Attrs&, const SlotSpecs& s, Phase phase) {
  return in_update(phase, s[kSums].elements());
}
std::vector<Sample<GlobalNorm::Attrs>> GlobalNorm::samples() {
  return {make_sample(Attrs{}, {{kSums, {5}}}), make_sample(Attrs{}, {{kSums, {1}}})};
}

void AdamW::infer(const Attrs& a, SlotSpecs& s) { require_flat<AdamW>(s, a.decays); }
std::int64_t AdamW::flops(const Attrs&, const SlotSpecs& s, Phase phase) {
  return in_update(phase, 14 * s[kGradients].elements());
}
std::vector<Sample<AdamW::Attrs>> AdamW::samples() {
  const auto sample = [](Attrs a, std::int64_t n) {
    return make_sample(
        a, {{kGradients, {n}}, {kNorm, {1}, DType::f64}, {kParameters, {n}}, {kFirst, {n}}, {kSecond, {n}}});
  };
  std::vector<Sample<Attrs>> all{
      sample({0.9, 0.95, 1e-8, 0.1, 1.0, {{0, 33}}}, 101),
      sample({0.9, 0.999, 1e-8, 0.0, 0.0}, 7),
      sample({0.8, 0.99, 1e-6, 0.2, 0.5, {{0, 20011}}}, 20011),
      sample({0.9, 0.95, 1e-8, 0.5, 1.0, scattered(20011)}, 20011),
  };
  add_rounding_samples(all, {kGradients, kParameters, kFirst, kSecond}, kRounded);
  return all;
}

void Sgd::infer(const Attrs& a, SlotSpecs& s) {
  require_flat<Sgd>(s, a.decays);
  require(s.has(kMomentum) || a.momentum == 0, ErrorKind::Internal, "sgd: a momentum of {} needs its buffer",
          a.momentum);
}
std::int64_t Sgd::flops(const Attrs&, const SlotSpecs& s, Phase phase) {
  return in_update(phase, 8 * s[kGradients].elements());
}
std::vector<Sample<Sgd::Attrs>> Sgd::samples() {
  const auto sample = [](Attrs a, std::int64_t n) {
    return make_sample(a, {{kGradients, {n}}, {kNorm, {1}, DType::f64}, {kParameters, {n}}, {kMomentum, {n}}});
  };
  std::vector<Sample<Attrs>> all{
      sample({0.9, 0.1, 1.0, false, {{0, 33}}}, 101),
      sample({0.0, 0.0, 0.0, false}, 7),
      make_sample(Attrs{0.0, 0.1, 0.5, false, {{0, 33}}},
                  {{kGradients, {101}}, {kNorm, {1}, DType::f64}, {kParameters, {101}}}),
      sample({0.8, 0.2, 0.5, true, {{0, 10000}}}, 20011),
      sample({0.8, 0.5, 0.5, true, scattered(20011)}, 20011),
  };
  add_rounding_samples(all, {kGradients, kParameters, kMomentum}, kRounded);
  return all;
}

void RoundWeights::infer(const Attrs& a, SlotSpecs& s) {
  const TensorSpec& weights = s[kWeights];
  require(weights.shape.rank() == 1 && weights.dtype == DType::f32, ErrorKind::Internal, "round_weights: weights is {}",
          to_string(weights));
  for (const RoundSegment& segment : a.segments) {
    require(segment.offset >= 0 && segment.elements >= 0 && segment.offset + segment.elements <= weights.elements() &&
                segment.columns > 0 && segment.row + segment.rows <= segment.tensor_rows &&
                segment.column + segment.part_columns <= segment.tensor_columns,
            ErrorKind::Internal, "round_weights: elements {} to {} lie outside {}, or of their tensor", segment.offset,
            segment.offset + segment.elements, to_string(weights));
  }
  s.set(kRounded, {weights.shape, DType::bf16});
}
std::int64_t RoundWeights::flops(const Attrs&, const SlotSpecs& s, Phase phase) {
  return in_update(phase, s[kWeights].elements());
}
std::vector<Sample<RoundWeights::Attrs>> RoundWeights::samples() {
  // Two tensors side by side in one parameter of 7 columns, whose elements from 5 on are here; rows of another.
  const std::uint64_t a = rounding_stream("a"), b = rounding_stream("b"), c = rounding_stream("c");
  const Attrs parts{{{0, 65, 5, 7, 0, 0, 10, 3, 20, 4, 40, 11, a},
                     {0, 65, 5, 7, 0, 3, 10, 4, 0, 0, 10, 4, b},
                     {65, 36, 9, 9, 0, 0, 20, 9, 100, 0, 200, 9, c}}};
  // The same where neighbours of a row are many, and a tensor that ends with less.
  const Attrs wide{{{0, 96, 16, 32, 0, 0, 4, 16, 0, 0, 4, 16, a},
                    {0, 96, 16, 32, 0, 16, 4, 16, 0, 0, 4, 16, b},
                    {96, 61, 0, 9, 0, 0, 7, 9, 3, 0, 20, 9, c}}};
  return {make_sample(parts, {{kWeights, {101}, DType::f32}}), make_sample(wide, {{kWeights, {157}, DType::f32}})};
}

std::vector<Sample<Clear::Attrs>> Clear::samples() { return {make_sample(Attrs{37, DType::f64}, {})}; }

}  // namespace plimsoll
