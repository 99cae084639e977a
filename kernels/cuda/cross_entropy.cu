#include "kernels/cuda/check.hpp"
#include "kernels/cuda/cross_entropy.hpp"
#include "kernels/cuda/device_code.cuh"

namespace plimsoll::cuda {
namespace {

constexpr unsigned kThreads = 512;
constexpr float kLowest = -3.402823466e+38F;

// A block has one row.
template <class T>
__device__ float row_maximum(const T* logits, std::int64_t n, bool aligned, float* shared) {
  float top = kLowest;
  for (std::int64_t i = std::int64_t{threadIdx.x} * kPack<T>; i < n; i += std::int64_t{kThreads} * kPack<T>) {
    const Pack<T> pack = load(logits, i, n, aligned);
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) {
      if (i + j < n) top = fmaxf(top, pack.at[j]);
    }
  }
  return block_max(top, shared);
}

template <class T>
__device__ double exponential_sum(const T* logits, std::int64_t n, float top, bool aligned, double* shared) {
  float sum = 0;
  for (std::int64_t i = std::int64_t{threadIdx.x} * kPack<T>; i < n; i += std::int64_t{kThreads} * kPack<T>) {
    const Pack<T> pack = load(logits, i, n, aligned);
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) {
      if (i + j < n) sum += expf(pack.at[j] - top);
    }
  }
  return block_sum(static_cast<double>(sum), shared);
}

// logits = exp(logit − top) · factor, less `seed` in column `target`; 0 in the columns that do not count.
template <class T>
__device__ void to_gradient(const LogitRows<T>& r, T* logits, float top, float factor, float seed, std::int64_t target,
                            bool aligned) {
  for (std::int64_t i = std::int64_t{threadIdx.x} * kPack<T>; i < r.vocabulary;
       i += std::int64_t{kThreads} * kPack<T>) {
    Pack<T> pack = load(logits, i, r.vocabulary, aligned);
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) {
      float gradient = i + j < r.valid && factor != 0 ? expf(pack.at[j] - top) * factor : 0.0F;
      if (i + j == target) gradient -= seed;
      pack.at[j] = gradient;
    }
    store(logits, i, r.vocabulary, aligned, pack);
  }
}

template <class T>
__global__ void row_losses_kernel(LogitRows<T> r, const StepInputs* inputs, double* losses, bool aligned) {
  __shared__ float shared_max[kWarp];
  __shared__ double shared_sum[kWarp];
  T* logits = r.logits + blockIdx.x * r.stride;
  const std::int32_t target = r.targets[blockIdx.x];
  if (target < 0) {
    if (threadIdx.x == 0) losses[blockIdx.x] = 0;
    if (inputs != nullptr) to_gradient(r, logits, 0.0F, 0.0F, 0.0F, -1, aligned);
    return;
  }
  const double of_target = widen(logits[target]);  // read by all before the barriers below, and overwritten after them
  const float top = row_maximum(logits, r.valid, aligned, shared_max);
  const double sum = exponential_sum(logits, r.valid, top, aligned, shared_sum);
  if (threadIdx.x == 0) losses[blockIdx.x] = log(sum) + static_cast<double>(top) - of_target;
  if (inputs == nullptr) return;
  const double seed = inputs->loss_seed;
  to_gradient(r, logits, top, static_cast<float>(seed / sum), static_cast<float>(seed), target, aligned);
}

template <class T>
__global__ void row_maxima_kernel(LogitRows<T> r, double* maxima, double* sums, bool aligned) {
  __shared__ float shared[kWarp];
  const T* logits = r.logits + blockIdx.x * r.stride;
  const std::int64_t target = r.targets[blockIdx.x] - r.first;
  const float top = row_maximum(logits, r.valid, aligned, shared);
  if (threadIdx.x != 0) return;
  maxima[blockIdx.x] = top;
  sums[2 * blockIdx.x + 1] = target >= 0 && target < r.valid ? static_cast<double>(widen(logits[target])) : 0.0;
}

template <class T>
__global__ void row_sums_kernel(LogitRows<T> r, const double* maxima, double* sums, bool aligned) {
  __shared__ double shared[kWarp];
  const auto top = static_cast<float>(maxima[blockIdx.x]);
  const double sum = exponential_sum(r.logits + blockIdx.x * r.stride, r.valid, top, aligned, shared);
  if (threadIdx.x == 0) sums[2 * blockIdx.x] = sum;
}

template <class T>
__global__ void finish_rows_kernel(LogitRows<T> r, const StepInputs* inputs, const double* maxima, const double* sums,
                                   double* losses, bool aligned) {
  const std::int64_t row = blockIdx.x;
  const bool counts = r.targets[row] >= 0;
  if (threadIdx.x == 0) losses[row] = counts ? log(sums[2 * row]) + maxima[row] - sums[2 * row + 1] : 0.0;
  if (inputs == nullptr) return;
  const double seed = inputs->loss_seed;
  const std::int64_t column = r.targets[row] - r.first;
  const bool here = counts && column >= 0 && column < r.valid;
  to_gradient(r, r.logits + row * r.stride, static_cast<float>(maxima[row]),
              counts ? static_cast<float>(seed / sums[2 * row]) : 0.0F, static_cast<float>(seed), here ? column : -1,
              aligned);
}

__global__ void add_losses_kernel(const double* losses, const std::int32_t* targets, std::int64_t rows, double* loss,
                                  bool accumulate) {
  __shared__ double shared[kWarp];
  double sum = 0, valid = 0;
  for (std::int64_t i = threadIdx.x; i < rows; i += kThreads) {
    sum += losses[i];
    valid += targets[i] >= 0 ? 1 : 0;
  }
  sum = block_sum(sum, shared);
  valid = block_sum(valid, shared);
  if (threadIdx.x != 0) return;
  loss[0] = accumulate ? loss[0] + sum : sum;
  loss[1] = accumulate ? loss[1] + valid : valid;
}

template <class T>
bool wide_rows(const LogitRows<T>& r) {
  return wide<T>(r.stride, {r.logits});
}
template <class T>
unsigned blocks_of(const LogitRows<T>& r) {
  return static_cast<unsigned>(r.rows);
}

}  // namespace

template <class T>
void row_losses(cudaStream_t stream, const LogitRows<T>& r, const StepInputs* inputs, double* losses) {
  row_losses_kernel<T><<<blocks_of(r), kThreads, 0, stream>>>(r, inputs, losses, wide_rows(r));
  check_launch("cross_entropy rows");
}

template <class T>
void row_maxima(cudaStream_t stream, const LogitRows<T>& r, double* maxima, double* sums) {
  row_maxima_kernel<T><<<blocks_of(r), kThreads, 0, stream>>>(r, maxima, sums, wide_rows(r));
  check_launch("cross_entropy maxima");
}

template <class T>
void row_sums(cudaStream_t stream, const LogitRows<T>& r, const double* maxima, double* sums) {
  row_sums_kernel<T><<<blocks_of(r), kThreads, 0, stream>>>(r, maxima, sums, wide_rows(r));
  check_launch("cross_entropy sums");
}

template <class T>
void finish_rows(cudaStream_t stream, const LogitRows<T>& r, const StepInputs* inputs, const double* maxima,
                 const double* sums, double* losses) {
  finish_rows_kernel<T><<<blocks_of(r), kThreads, 0, stream>>>(r, inputs, maxima, sums, losses, wide_rows(r));
  check_launch("cross_entropy over ranks");
}

void add_losses(cudaStream_t stream, const double* losses, const std::int32_t* targets, std::int64_t rows, double* loss,
                bool accumulate) {
  add_losses_kernel<<<1, kThreads, 0, stream>>>(losses, targets, rows, loss, accumulate);
  check_launch("cross_entropy losses");
}

#define PLIMSOLL_INSTANTIATE(T)                                                                                 \
  template void row_losses(cudaStream_t, const LogitRows<T>&, const StepInputs*, double*);                      \
  template void row_maxima(cudaStream_t, const LogitRows<T>&, double*, double*);                                \
  template void row_sums(cudaStream_t, const LogitRows<T>&, const double*, double*);                            \
  template void finish_rows(cudaStream_t, const LogitRows<T>&, const StepInputs*, const double*, const double*, \
                            double*);
PLIMSOLL_INSTANTIATE(float)
PLIMSOLL_INSTANTIATE(bf16)
PLIMSOLL_INSTANTIATE(f16)
#undef PLIMSOLL_INSTANTIATE

}  // namespace plimsoll::cuda
