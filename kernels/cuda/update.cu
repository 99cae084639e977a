#include "kernels/cuda/check.hpp"
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/random.cuh"
#include "kernels/cuda/update.hpp"

namespace plimsoll::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr int kVector = kPack<float>;

__device__ std::int64_t blocks_of(const SegmentList& s, int segment, int block_elements) {
  return (s.elements[segment] + block_elements - 1) / block_elements;
}

// The last of `count` segments, none of them empty, that begins at or before a block.
__device__ int last_at_or_before(const std::int64_t* first_block, int count, std::int64_t block) {
  int low = 0, high = count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (first_block[middle] <= block)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

__global__ void square_partials_kernel(const __grid_constant__ SegmentList s, int block_elements,
                                       const float* gradients, double* partials) {
  __shared__ double shared[kWarp];
  __shared__ int segment;
  const std::int64_t block = s.first_block[0] + blockIdx.x;
  if (threadIdx.x == 0) segment = last_at_or_before(s.first_block, s.count, block);
  __syncthreads();
  const std::int64_t from = (block - s.first_block[segment]) * block_elements, rest = s.elements[segment] - from;
  const std::int64_t n = rest < block_elements ? rest : block_elements;
  const float* g = gradients + s.offset[segment] + from;
  const bool aligned = reinterpret_cast<std::uintptr_t>(g) % 16 == 0;
  double sum = 0;
  for (std::int64_t i = std::int64_t{threadIdx.x} * kVector; i < n; i += std::int64_t{kThreads} * kVector) {
    const Pack<float> pack = load(g, i, n, aligned);
#pragma unroll
    for (int j = 0; j < kVector; ++j) sum += static_cast<double>(pack.at[j]) * static_cast<double>(pack.at[j]);
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) partials[block] = sum;
}

// A block per segment: its partial sums become their sum, left in the first of them.
__global__ void segment_sums_kernel(const __grid_constant__ SegmentList s, int block_elements, double* partials) {
  __shared__ double shared[kWarp];
  double* mine = partials + s.first_block[blockIdx.x];
  const std::int64_t n = blocks_of(s, static_cast<int>(blockIdx.x), block_elements);
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += kThreads) sum += mine[i];
  __syncthreads();  // mine[0] is read
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) mine[0] = sum;
}

// A thread per segment; the first segment of a tensor adds all of them, in their order. Threads of a warp look at the
// same segment at the same time, which is how arguments are read fast.
__global__ void add_segments_kernel(const __grid_constant__ SegmentList s, const double* partials, double* sums) {
  const int mine = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (mine >= s.count) return;
  const int tensor = s.tensor[mine];
  for (int i = 0; i < mine; ++i) {
    if (s.tensor[i] == tensor) return;
  }
  double sum = sums[tensor];
  for (int i = 0; i < s.count; ++i) {  // none of those before `mine`
    if (s.tensor[i] == tensor) sum += partials[s.first_block[i]];
  }
  sums[tensor] = sum;
}

__global__ void global_norm_kernel(const double* sums, std::int64_t n, const StepInputs* inputs, double* norm,
                                   StepOutputs* outputs) {
  __shared__ double shared[kWarp];
  double total = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += kThreads) total += sums[i];
  total = block_sum(total, shared);
  if (threadIdx.x != 0) return;
  const double result = sqrt(total) / static_cast<double>(inputs->loss_scale);
  norm[0] = result;
  outputs->grad_norm = result;
  outputs->found_inf = isfinite(result) ? 0 : 1;
}

// What the gradient is multiplied by: 1 / loss scale, and clipping to the norm.
__device__ double gradient_factor(const UpdateBuffers& b, double clip) {
  const double unscale = 1 / static_cast<double>(b.inputs->loss_scale);
  return clip <= 0 ? unscale : unscale * fmin(1.0, clip / (b.norm[0] + 1e-6));
}

// to[at … at + kVector) = pack, nothing from to[n] on; at once where that is aligned. `at` is a multiple of kVector.
template <class T>
__device__ void store_narrow(T* to, std::int64_t at, std::int64_t n, const Pack<float>& pack) {
  static_assert(sizeof(uint2) == kVector * sizeof(T));
  if (at + kVector <= n && reinterpret_cast<std::uintptr_t>(to) % sizeof(uint2) == 0) {
    uint2 raw;
    T* elements = reinterpret_cast<T*>(&raw);
#pragma unroll
    for (int i = 0; i < kVector; ++i) elements[i] = narrow<T>(pack.at[i]);
    *reinterpret_cast<uint2*>(to + at) = raw;
    return;
  }
  for (int i = 0; i < kVector && at + i < n; ++i) to[at + i] = narrow<T>(pack.at[i]);
}

__device__ void store_rounded(const UpdateBuffers& b, std::int64_t at, const Pack<float>& pack) {
  if (b.rounded == nullptr) return;
  if (b.rounded_type == DType::bf16)
    store_narrow(static_cast<bf16*>(b.rounded), at, b.end, pack);
  else
    store_narrow(static_cast<f16*>(b.rounded), at, b.end, pack);
}

// The first range that ends behind the elements before a block's.
__device__ int first_decay(const DecayList& decays, std::int64_t begin) {
  int low = 0, high = decays.count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (decays.end[middle] <= begin)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// `range`: first_decay() of elements before, of which none comes back; moves on with `at`.
__device__ bool decays_at(const DecayList& decays, int& range, std::int64_t at) {
  while (range < decays.count && decays.end[range] <= at) ++range;
  return range < decays.count && decays.first[range] <= at;
}

// Scalars are computed in double, by one thread of a block, and rounded once.
struct AdamWScalars {
  float factor, shrink, take1, keep2, take2, step, root, eps;
};
__device__ AdamWScalars scalars_of(const UpdateBuffers& b, const AdamWRule& rule) {
  const double lr = b.inputs->learning_rate;
  return {static_cast<float>(gradient_factor(b, rule.clip)),
          static_cast<float>(1 - lr * rule.weight_decay),
          static_cast<float>(1 - rule.beta1),
          static_cast<float>(rule.beta2),
          static_cast<float>(1 - rule.beta2),
          static_cast<float>(lr / static_cast<double>(b.inputs->bias_correction1)),
          static_cast<float>(sqrt(static_cast<double>(b.inputs->bias_correction2))),
          static_cast<float>(rule.eps)};
}

__global__ void adamw_kernel(UpdateBuffers b, const __grid_constant__ DecayList decays, AdamWRule rule, float* first,
                             float* second, bool aligned) {
  if (b.outputs->found_inf != 0) return;
  __shared__ AdamWScalars shared;
  __shared__ int first_range;
  const std::int64_t from = b.begin + std::int64_t{blockIdx.x} * kThreads * kVector;
  if (threadIdx.x == 0) {
    shared = scalars_of(b, rule);
    first_range = first_decay(decays, from);
  }
  __syncthreads();
  const AdamWScalars s = shared;
  int range = first_range;
  const std::int64_t at = from + std::int64_t{threadIdx.x} * kVector, n = b.end;
  if (at >= n) return;
  const Pack<float> gradient = load(b.gradients, at, n, aligned);
  Pack<float> p = load(b.parameters, at, n, aligned), m = load(first, at, n, aligned), v = load(second, at, n, aligned);
#pragma unroll
  for (int j = 0; j < kVector; ++j) {
    const float g = gradient.at[j] * s.factor, keep = decays_at(decays, range, at + j) ? s.shrink : 1.0F;
    m.at[j] = m.at[j] + s.take1 * (g - m.at[j]);
    v.at[j] = v.at[j] * s.keep2 + s.take2 * g * g;
    p.at[j] = p.at[j] * keep - s.step * (m.at[j] / (sqrtf(v.at[j]) / s.root + s.eps));
  }
  store(first, at, n, aligned, m);
  store(second, at, n, aligned, v);
  store(b.parameters, at, n, aligned, p);
  store_rounded(b, at, p);
}

__global__ void sgd_kernel(UpdateBuffers b, const __grid_constant__ DecayList decays, SgdRule rule, float* momentum,
                           bool aligned) {
  if (b.outputs->found_inf != 0) return;
  __shared__ float shared_factor;
  __shared__ int first_range;
  const std::int64_t from = b.begin + std::int64_t{blockIdx.x} * kThreads * kVector;
  if (threadIdx.x == 0) {
    shared_factor = static_cast<float>(gradient_factor(b, rule.clip));
    first_range = first_decay(decays, from);
  }
  __syncthreads();
  int range = first_range;
  const float factor = shared_factor, keep = static_cast<float>(rule.momentum), lr = b.inputs->learning_rate;
  const std::int64_t at = from + std::int64_t{threadIdx.x} * kVector, n = b.end;
  if (at >= n) return;
  const Pack<float> gradient = load(b.gradients, at, n, aligned);
  Pack<float> p = load(b.parameters, at, n, aligned), m{};
  if (momentum != nullptr) m = load(momentum, at, n, aligned);
#pragma unroll
  for (int j = 0; j < kVector; ++j) {
    const float pull = decays_at(decays, range, at + j) ? static_cast<float>(rule.weight_decay) : 0.0F;
    const float g = gradient.at[j] * factor + pull * p.at[j];
    m.at[j] = momentum != nullptr ? keep * m.at[j] + g : g;
    p.at[j] -= lr * (momentum != nullptr && rule.nesterov ? g + keep * m.at[j] : m.at[j]);
  }
  if (momentum != nullptr) store(momentum, at, n, aligned, m);
  store(b.parameters, at, n, aligned, p);
  store_rounded(b, at, p);
}

__global__ void round_weights_kernel(const __grid_constant__ RoundList list, const float* weights, bf16* rounded,
                                     const StepInputs* inputs, const StepOutputs* outputs) {
  if (outputs->found_inf != 0) return;
  __shared__ int segment;
  const std::int64_t block = blockIdx.x;
  if (threadIdx.x == 0) segment = last_at_or_before(list.first_block, list.count, block);
  __syncthreads();
  const RoundSegment& s = list.segments[segment];
  const std::int64_t at =
      (block - list.first_block[segment]) * kRoundedPerBlock + std::int64_t{threadIdx.x} * kPack<bf16>;
  if (at >= s.elements) return;
  const float* from = weights + s.offset;
  bf16* to = rounded + s.offset;
  const Pack<bf16> pack = load_floats<bf16>(from + at, s.elements - at, is_aligned(from));
  const std::uint64_t update = inputs->updates + 1;
  RandomEntries random(inputs->seed, s.stream);
  Stored<bf16> result;
  bool here[kPack<bf16>], all = true;
#pragma unroll
  for (int j = 0; j < kPack<bf16>; ++j) {
    const std::int64_t index = at + j < s.elements ? tensor_element(s, at + j) : -1;
    here[j] = index >= 0;
    all = all && here[j];
    if (!here[j]) continue;
    const std::uint64_t entry = rounding_entry(s.tensor_rows * s.tensor_columns, update, index);
    result.at[j].bits = round_stochastic(__float_as_uint(pack.at[j]), random[entry]);
  }
  if (all) return store(to, at, s.elements, is_aligned(to), result);
#pragma unroll
  for (int j = 0; j < kPack<bf16>; ++j) {  // between them are elements of another segment
    if (here[j]) to[at + j] = result.at[j];
  }
}
static_assert(kRoundedPerBlock == kThreads * kPack<bf16>);

// With room for the arguments beside the largest.
constexpr std::size_t kOtherArgumentBytes = 128;
static_assert(sizeof(SegmentList) + kOtherArgumentBytes <= kArgumentBytes);
static_assert(sizeof(RoundList) + kOtherArgumentBytes <= kArgumentBytes);
static_assert(sizeof(DecayList) + sizeof(UpdateBuffers) + sizeof(AdamWRule) + kOtherArgumentBytes <= kArgumentBytes);

}  // namespace

void square_partials(cudaStream_t stream, const SegmentList& segments, std::int64_t blocks, int block_elements,
                     const float* gradients, double* partials) {
  square_partials_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(segments, block_elements, gradients,
                                                                                 partials);
  check_launch("square_sums");
}

void add_segments(cudaStream_t stream, const SegmentList& segments, int block_elements, double* partials,
                  double* sums) {
  segment_sums_kernel<<<static_cast<unsigned>(segments.count), kThreads, 0, stream>>>(segments, block_elements,
                                                                                      partials);
  check_launch("square_sums of segments");
  add_segments_kernel<<<blocks_for(segments.count, kThreads), kThreads, 0, stream>>>(segments, partials, sums);
  check_launch("square_sums of tensors");
}

void global_norm(cudaStream_t stream, const double* sums, std::int64_t n, const StepInputs* inputs, double* norm,
                 StepOutputs* outputs) {
  global_norm_kernel<<<1, kThreads, 0, stream>>>(sums, n, inputs, norm, outputs);
  check_launch("global_norm");
}

void adamw(cudaStream_t stream, const UpdateBuffers& b, const DecayList& decays, const AdamWRule& rule, float* first,
           float* second) {
  adamw_kernel<<<blocks_for(b.end - b.begin, kThreads * kVector), kThreads, 0, stream>>>(
      b, decays, rule, first, second, wide<float>(0, {b.gradients, b.parameters, first, second}));
  check_launch("adamw");
}

void sgd(cudaStream_t stream, const UpdateBuffers& b, const DecayList& decays, const SgdRule& rule, float* momentum) {
  sgd_kernel<<<blocks_for(b.end - b.begin, kThreads * kVector), kThreads, 0, stream>>>(
      b, decays, rule, momentum, wide<float>(0, {b.gradients, b.parameters, momentum}));
  check_launch("sgd");
}

void round_weights(cudaStream_t stream, const RoundList& list, std::int64_t blocks, const float* weights, bf16* rounded,
                   const StepInputs* inputs, const StepOutputs* outputs) {
  round_weights_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(list, weights, rounded, inputs, outputs);
  check_launch("round_weights");
}

}  // namespace plimsoll::cuda
