#pragma once
// Norms of gradients and the optimizers, on flat buffers. Scalars of the step are read on the device. Parameters and
// gradients are float; `rounded`, where there is one, is what parameters become in bf16 or f16.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "runtime/ops/round_segment.hpp"
#include "runtime/ops/step_inputs.hpp"
#include "runtime/tensor/dtype.hpp"

namespace plimsoll::cuda {

// What a kernel's arguments hold in all, from compute capability 7.0 and CUDA 12.1 on. A list that is one of them is a
// __grid_constant__: threads read it where the launch put it.
inline constexpr std::size_t kArgumentBytes = 32764;

// Segments of SquareSums that one launch takes: those of 85 layers of GPT-2, which has 12 in each.
inline constexpr int kSegmentsPerLaunch = 1024;
struct SegmentList {
  int count = 0;
  int tensor[kSegmentsPerLaunch] = {};
  std::int64_t offset[kSegmentsPerLaunch] = {}, elements[kSegmentsPerLaunch] = {};
  std::int64_t first_block[kSegmentsPerLaunch] = {};  // among the partial sums; those of a segment lie together
};

// partials[block] = Σ g² of block_elements elements of a segment, in double; `blocks` of all segments of the list,
// which begin with `first_block[0]`.
void square_partials(cudaStream_t stream, const SegmentList& segments, std::int64_t blocks, int block_elements,
                     const float* gradients, double* partials);
// sums[tensor] += its segments, in their order. Overwrites partials.
void add_segments(cudaStream_t stream, const SegmentList& segments, int block_elements, double* partials, double* sums);

// norm = sqrt(Σ sums) / loss_scale, also into outputs (grad_norm, found_inf).
void global_norm(cudaStream_t stream, const double* sums, std::int64_t n, const StepInputs* inputs, double* norm,
                 StepOutputs* outputs);

struct UpdateBuffers {
  const float* gradients = nullptr;
  const double* norm = nullptr;
  float* parameters = nullptr;
  void* rounded = nullptr;  // may be null
  DType rounded_type = DType::bf16;
  std::int64_t begin = 0, end = 0;  // elements of this launch; it begins at a multiple of 4
  const StepInputs* inputs = nullptr;
  const StepOutputs* outputs = nullptr;  // nothing happens where found_inf is set
};
// Ranges that decay, in order; what a launch has of them. A unit of the flat layout, as a layer, has one.
inline constexpr int kDecaysPerLaunch = 192;
struct DecayList {
  int count = 0;
  std::int64_t first[kDecaysPerLaunch] = {}, end[kDecaysPerLaunch] = {};
};
struct AdamWRule {
  double beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0, clip = 0;
};
void adamw(cudaStream_t stream, const UpdateBuffers& buffers, const DecayList& decays, const AdamWRule& rule,
           float* first, float* second);
struct SgdRule {
  double momentum = 0, weight_decay = 0, clip = 0;
  bool nesterov = false;
};
void sgd(cudaStream_t stream, const UpdateBuffers& buffers, const DecayList& decays, const SgdRule& rule,
         float* momentum);  // may be null

// rounded = weights, stochastically, of segments that are not empty; nothing happens where found_inf is set.
inline constexpr int kRoundedPerLaunch = 288;
inline constexpr int kRoundedPerBlock = 2048;  // elements
struct RoundList {
  int count = 0;
  RoundSegment segments[kRoundedPerLaunch] = {};
  std::int64_t first_block[kRoundedPerLaunch] = {};
};
void round_weights(cudaStream_t stream, const RoundList& list, std::int64_t blocks, const float* weights, bf16* rounded,
                   const StepInputs* inputs, const StepOutputs* outputs);

}  // namespace plimsoll::cuda
