#include "kernels/cuda/update.hpp"

#include <algorithm>

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/register.hpp"

namespace plimsoll {
namespace {

using namespace cuda;

// The segments that are not empty, as many as one launch takes; `at` goes on from where the last list ended. Returns
// the partial sums of the list.
std::int64_t next_segments(std::span<const Segment> segments, std::size_t& at, std::int64_t first_block,
                           SegmentList& list) {
  std::int64_t blocks = 0;
  list.count = 0;
  for (; at < segments.size() && list.count < kSegmentsPerLaunch; ++at) {
    const Segment& s = segments[at];
    if (s.elements == 0) continue;
    const int i = list.count++;
    list.offset[i] = s.offset;
    list.elements[i] = s.elements;
    list.first_block[i] = first_block + blocks;
    list.tensor[i] = s.tensor;
    blocks += norm_blocks({&s, 1});
  }
  return blocks;
}

void square_sums(const KernelArgs& args) {
  const auto& segments = args.attrs<SquareSums>().segments;
  auto* partials = reinterpret_cast<double*>(args.workspace);
  auto* sums = args.v<double>(SquareSums::kSums);
  zero(args, args.value[SquareSums::kSums]);
  std::int64_t first_block = 0;
  constexpr int kBlock = static_cast<int>(kNormBlockElements);
  for (std::size_t at = 0; at < segments.size();) {
    SegmentList list;
    const std::int64_t blocks = next_segments(segments, at, first_block, list);
    if (list.count == 0) return;
    square_partials(stream_of(args), list, blocks, kBlock, args.v<const float>(SquareSums::kGradients), partials);
    add_segments(stream_of(args), list, kBlock, partials, sums);
    first_block += blocks;
  }
}

void norm_of_all(const KernelArgs& args) {
  global_norm(stream_of(args), args.v<const double>(GlobalNorm::kSums), args.value[GlobalNorm::kSums].spec.elements(),
              args.inputs, args.v<double>(GlobalNorm::kNorm), args.outputs);
}

template <class Op>
UpdateBuffers buffers_of(const KernelArgs& args) {
  UpdateBuffers b;
  b.gradients = args.v<const float>(Op::kGradients);
  b.norm = args.v<const double>(Op::kNorm);
  b.parameters = args.v<float>(Op::kParameters);
  b.rounded = args.value[Op::kRounded].data;
  b.rounded_type = args.value[Op::kRounded].spec.dtype;
  b.inputs = args.inputs;
  b.outputs = args.outputs;
  return b;
}

// launch(buffers, decays) for all elements: one launch, unless there are more ranges than it takes.
template <class Op, class Launch>
void launch_update(const KernelArgs& args, const Launch& launch) {
  constexpr std::int64_t kVector = 4;
  const auto& decays = args.attrs<Op>().decays;
  const std::int64_t elements = args.value[Op::kParameters].spec.elements();
  UpdateBuffers b = buffers_of<Op>(args);
  for (std::size_t at = 0; b.begin < elements; b.begin = b.end) {
    while (at < decays.size() && decays[at].first + decays[at].count <= b.begin) ++at;
    DecayList list;
    std::size_t next = at;
    for (; next < decays.size() && list.count < kDecaysPerLaunch; ++next) {
      list.first[list.count] = decays[next].first;
      list.end[list.count++] = decays[next].first + decays[next].count;
    }
    b.end = next == decays.size() ? elements : decays[next].first / kVector * kVector;
    launch(b, list);
  }
}

void adamw_update(const KernelArgs& args) {
  const auto& a = args.attrs<AdamW>();
  launch_update<AdamW>(args, [&](const UpdateBuffers& b, const DecayList& decays) {
    adamw(stream_of(args), b, decays, {a.beta1, a.beta2, a.eps, a.weight_decay, a.clip}, args.v<float>(AdamW::kFirst),
          args.v<float>(AdamW::kSecond));
  });
}

void sgd_update(const KernelArgs& args) {
  const auto& a = args.attrs<Sgd>();
  launch_update<Sgd>(args, [&](const UpdateBuffers& b, const DecayList& decays) {
    sgd(stream_of(args), b, decays, {a.momentum, a.weight_decay, a.clip, a.nesterov}, args.v<float>(Sgd::kMomentum));
  });
}

void round_weights_update(const KernelArgs& args) {
  const auto& segments = args.attrs<RoundWeights>().segments;
  for (std::size_t at = 0; at < segments.size();) {
    RoundList list;
    std::int64_t blocks = 0;
    for (; at < segments.size() && list.count < kRoundedPerLaunch; ++at) {
      if (segments[at].elements == 0) continue;
      list.segments[list.count] = segments[at];
      list.first_block[list.count++] = blocks;
      blocks += (segments[at].elements + kRoundedPerBlock - 1) / kRoundedPerBlock;
    }
    if (list.count == 0) return;
    round_weights(stream_of(args), list, blocks, args.v<const float>(RoundWeights::kWeights),
                  args.v<bf16>(RoundWeights::kRounded), args.inputs, args.outputs);
  }
}

void clear(const KernelArgs& args) { zero(args, args.value[Clear::kX]); }

}  // namespace

void add_cuda_update_kernels(KernelTable& table) {
  table.add<SquareSums>(Phase::Update, DType::f32, square_sums);
  table.add<GlobalNorm>(Phase::Update, DType::f64, norm_of_all);
  table.add<AdamW>(Phase::Update, DType::f32, adamw_update);
  table.add<Sgd>(Phase::Update, DType::f32, sgd_update);
  table.add<RoundWeights>(Phase::Update, DType::f32, round_weights_update);
  table.add<Clear>(Phase::Reduce, DType::f32, clear);  // of whatever dtype: an op without inputs computes in none
}

}  // namespace plimsoll
