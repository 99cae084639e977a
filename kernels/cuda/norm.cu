#include "kernels/cuda/check.hpp"
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/norm.hpp"

namespace plimsoll::cuda {
namespace {

constexpr unsigned kLanes = 32, kRowLanes = 8;  // of a block of norm_partials: packs of columns, and rows
constexpr unsigned kSumThreads = 64;            // of a block of sum_partials; few, since there are few columns

// Where a unit begins, and its weight.
struct Unit {
  std::int64_t at;
  bool rest;
  __device__ Unit(const NormUnits& units, std::int64_t index) {
    const std::int64_t row = index / units.heads, head = index % units.heads;
    at = row * units.width + head * units.h;
    rest = head >= units.first_heads;
  }
};

// A block has one unit, and its threads the same elements of it each time they pass over it.
template <class T>
__global__ void norm_kernel(NormUnits units, NormForward<T> n, bool aligned) {
  __shared__ float shared[kWarp];
  const Unit unit(units, blockIdx.x);
  const T* x = n.x + unit.at;
  const std::int64_t step = std::int64_t{blockDim.x} * kPack<T>, first = std::int64_t{threadIdx.x} * kPack<T>;
  if (n.residual != nullptr) {
    const T* residual = n.residual + unit.at;
    T* sum = n.sum + unit.at;
    for (std::int64_t i = first; i < units.h; i += step) {
      Pack<T> a = load(x, i, units.h, aligned);
      const Pack<T> b = load(residual, i, units.h, aligned);
#pragma unroll
      for (int j = 0; j < kPack<T>; ++j) a.at[j] += b.at[j];
      store(sum, i, units.h, aligned, a);
    }
    x = sum;
  }
  const float inverse = 1.0F / static_cast<float>(units.h);
  float mean = 0;
  if (n.mean != nullptr) {
    float total = 0;
    for (std::int64_t i = first; i < units.h; i += step) {
      const Pack<T> a = load(x, i, units.h, aligned);
#pragma unroll
      for (int j = 0; j < kPack<T>; ++j) total += a.at[j];
    }
    mean = block_sum(total, shared) * inverse;
  }
  float squares = 0;
  for (std::int64_t i = first; i < units.h; i += step) {
    const Pack<T> a = load(x, i, units.h, aligned);
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) {
      const float d = i + j < units.h ? a.at[j] - mean : 0.0F;
      squares += d * d;
    }
  }
  const auto variance = static_cast<double>(block_sum(squares, shared)) / static_cast<double>(units.h);
  const auto rstd = static_cast<float>(1.0 / sqrt(variance + n.eps));
  if (threadIdx.x == 0) {
    if (n.mean != nullptr) n.mean[blockIdx.x] = mean;
    n.rstd[blockIdx.x] = rstd;
  }
  const T* weights = unit.rest ? n.rest_weight : n.weight;
  for (std::int64_t i = first; i < units.h; i += step) {
    Pack<T> a = load(x, i, units.h, aligned);
    const Pack<T> weight = load(weights, i, units.h, aligned);
    Pack<T> bias{};
    if (n.bias != nullptr) bias = load(n.bias, i, units.h, aligned);
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) a.at[j] = (a.at[j] - mean) * rstd * weight.at[j] + bias.at[j];
    store(n.y + unit.at, i, units.h, aligned, a);
  }
}

// With x̂ = (x - mean)·rstd and g = dy·weight: dx = rstd·(g - mean(g) - x̂·mean(g·x̂)), the mean of g only where centered.
// No fused multiply-add with dsum: in fp32 the sum has the same bits whether a norm or an add node makes it.
template <class T>
__global__ void norm_gradient_kernel(NormUnits units, NormBackward<T> n, bool aligned) {
  __shared__ float shared[kWarp];
  const Unit unit(units, blockIdx.x);
  const T *x = n.x + unit.at, *dy = n.dy + unit.at, *weights = unit.rest ? n.rest_weight : n.weight;
  const std::int64_t step = std::int64_t{blockDim.x} * kPack<T>, first = std::int64_t{threadIdx.x} * kPack<T>;
  const bool centered = n.mean != nullptr;
  const float mean = centered ? n.mean[blockIdx.x] : 0.0F, rstd = n.rstd[blockIdx.x];
  float sum_g = 0, sum_gx = 0;
  for (std::int64_t i = first; i < units.h; i += step) {
    const Pack<T> a = load(x, i, units.h, aligned), d = load(dy, i, units.h, aligned);
    const Pack<T> weight = load(weights, i, units.h, aligned);
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) {
      const float g = d.at[j] * weight.at[j];
      sum_g += g;
      sum_gx += g * ((a.at[j] - mean) * rstd);
    }
  }
  const float inverse = 1.0F / static_cast<float>(units.h);
  const float mean_g = centered ? block_sum(sum_g, shared) * inverse : 0.0F;
  const float mean_gx = block_sum(sum_gx, shared) * inverse;
  for (std::int64_t i = first; i < units.h; i += step) {
    const Pack<T> a = load(x, i, units.h, aligned), d = load(dy, i, units.h, aligned);
    const Pack<T> weight = load(weights, i, units.h, aligned);
    Pack<T> out{};
    if (n.dsum != nullptr) out = load(n.dsum + unit.at, i, units.h, aligned);
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) {
      const float inner = d.at[j] * weight.at[j] - mean_g - (a.at[j] - mean) * rstd * mean_gx;
      const float gradient = __fmul_rn(rstd, inner);
      out.at[j] = n.dsum != nullptr ? __fadd_rn(out.at[j], gradient) : gradient;
    }
    store(n.dx + unit.at, i, units.h, aligned, out, n.accumulate);
  }
}

// Adds the kRowLanes sums of each column up in order and stores them.
template <class T>
__device__ void store_block_sums(const Pack<T>& mine, float (*shared)[kLanes * kPack<T>], float* to, std::int64_t h,
                                 std::int64_t column) {
#pragma unroll
  for (int j = 0; j < kPack<T>; ++j) shared[threadIdx.y][threadIdx.x * kPack<T> + j] = mine.at[j];
  __syncthreads();
  if (threadIdx.y == 0 && column < h) {
    Pack<T> total{};
    for (unsigned r = 0; r < kRowLanes; ++r) {
#pragma unroll
      for (int j = 0; j < kPack<T>; ++j) total.at[j] += shared[r][threadIdx.x * kPack<T> + j];
    }
    store_floats(to + column, h - column, is_aligned(to + column), total, false);
  }
  __syncthreads();
}

// Grid: tiles of columns, blocks of rows, and the two weights where the rest of the heads has its own.
template <class T>
__global__ void norm_partials_kernel(NormUnits units, NormBackward<T> n, SecondSum second, float* partials,
                                     bool aligned) {
  __shared__ float shared[kRowLanes][kLanes * kPack<T>];
  const std::int64_t column = (std::int64_t{blockIdx.x} * kLanes + threadIdx.x) * kPack<T>;
  const std::int64_t blocks = gridDim.y, block = blockIdx.y;
  const int first = blockIdx.z == 0 ? 0 : units.first_heads;
  const int last = second == SecondSum::Rest && blockIdx.z == 0 ? units.first_heads : units.heads;
  const std::int64_t end = (block + 1) * units.rows / blocks;
  Pack<T> weight_sum{}, bias_sum{};
  if (column < units.h) {
    for (std::int64_t row = block * units.rows / blocks + threadIdx.y; row < end; row += kRowLanes) {
      for (int head = first; head < last; ++head) {
        const std::int64_t at = row * units.width + head * units.h, unit = row * units.heads + head;
        const float mean = n.mean != nullptr ? n.mean[unit] : 0.0F, rstd = n.rstd[unit];
        const Pack<T> x = load(n.x + at, column, units.h, aligned), dy = load(n.dy + at, column, units.h, aligned);
#pragma unroll
        for (int j = 0; j < kPack<T>; ++j) {
          weight_sum.at[j] += dy.at[j] * ((x.at[j] - mean) * rstd);
          bias_sum.at[j] += dy.at[j];
        }
      }
    }
  }
  store_block_sums(weight_sum, shared, partials + (blockIdx.z * blocks + block) * units.h, units.h, column);
  if (second != SecondSum::Bias) return;
  store_block_sums(bias_sum, shared, partials + (blocks + block) * units.h, units.h, column);
}

__global__ void sum_partials_kernel(const float* partials, std::int64_t blocks, std::int64_t h, float* to, bool aligned,
                                    bool accumulate) {
  const std::int64_t column = (std::int64_t{blockIdx.x} * kSumThreads + threadIdx.x) * kPack<float>;
  if (column >= h) return;
  Pack<float> sum{};
#pragma unroll 8
  for (std::int64_t b = 0; b < blocks; ++b) {
    const Pack<float> part = load(partials + b * h, column, h, aligned);
#pragma unroll
    for (int j = 0; j < kPack<float>; ++j) sum.at[j] += part.at[j];
  }
  store(to, column, h, aligned, sum, accumulate);
}

template <class T>
__global__ void copy_columns_kernel(const T* from, T* to, std::int64_t columns, std::int64_t width, bool aligned,
                                    bool accumulate) {
  const std::int64_t row = std::int64_t{blockIdx.x} * width;
  for (std::int64_t i = std::int64_t{threadIdx.x} * kPack<T>; i < columns; i += std::int64_t{blockDim.x} * kPack<T>) {
    store(to + row, i, columns, aligned, load(from + row, i, columns, aligned), accumulate);
  }
}

// Rows and units may be read 16 bytes at a time.
template <class T>
bool wide_units(const NormUnits& units, std::initializer_list<const void*> pointers) {
  return units.width % kPack<T> == 0 && wide<T>(units.h, pointers);
}

}  // namespace

template <class T>
void norm(cudaStream_t stream, const NormUnits& units, const NormForward<T>& n) {
  if (units.rows == 0) return;
  const bool aligned = wide_units<T>(units, {n.x, n.residual, n.weight, n.rest_weight, n.bias, n.sum, n.y});
  norm_kernel<T>
      <<<static_cast<unsigned>(units.rows * units.heads), row_threads<T>(units.h), 0, stream>>>(units, n, aligned);
  check_launch("norm");
}

template <class T>
void norm_gradient(cudaStream_t stream, const NormUnits& units, const NormBackward<T>& n) {
  if (units.rows == 0) return;
  const bool aligned = wide_units<T>(units, {n.x, n.dy, n.weight, n.rest_weight, n.dsum, n.dx});
  norm_gradient_kernel<T>
      <<<static_cast<unsigned>(units.rows * units.heads), row_threads<T>(units.h), 0, stream>>>(units, n, aligned);
  check_launch("norm_gradient");
}

template <class T>
void norm_partials(cudaStream_t stream, const NormUnits& units, const NormBackward<T>& n, SecondSum second,
                   std::int64_t blocks, float* partials) {
  const dim3 grid(blocks_for(units.h, kLanes * kPack<T>), static_cast<unsigned>(blocks),
                  second == SecondSum::Rest ? 2 : 1);
  norm_partials_kernel<T>
      <<<grid, dim3(kLanes, kRowLanes), 0, stream>>>(units, n, second, partials, wide_units<T>(units, {n.x, n.dy}));
  check_launch("norm_partials");
}

void sum_partials(cudaStream_t stream, const float* partials, std::int64_t blocks, std::int64_t h, float* to,
                  bool accumulate) {
  sum_partials_kernel<<<blocks_for(h, kSumThreads * kPack<float>), kSumThreads, 0, stream>>>(
      partials, blocks, h, to, wide<float>(h, {partials, to}), accumulate);
  check_launch("sum_partials");
}

template <class T>
void copy_columns(cudaStream_t stream, const T* from, T* to, std::int64_t rows, std::int64_t columns,
                  std::int64_t width, bool accumulate) {
  if (rows == 0 || columns == 0) return;
  copy_columns_kernel<T><<<static_cast<unsigned>(rows), row_threads<T>(columns), 0, stream>>>(
      from, to, columns, width, wide<T>(width, {from, to}), accumulate);
  check_launch("copy_columns");
}

#define PLIMSOLL_INSTANTIATE(T)                                                                                \
  template void norm(cudaStream_t, const NormUnits&, const NormForward<T>&);                                   \
  template void norm_gradient(cudaStream_t, const NormUnits&, const NormBackward<T>&);                         \
  template void norm_partials(cudaStream_t, const NormUnits&, const NormBackward<T>&, SecondSum, std::int64_t, \
                              float*);                                                                         \
  template void copy_columns(cudaStream_t, const T*, T*, std::int64_t, std::int64_t, std::int64_t, bool);
PLIMSOLL_INSTANTIATE(float)
PLIMSOLL_INSTANTIATE(bf16)
PLIMSOLL_INSTANTIATE(f16)
#undef PLIMSOLL_INSTANTIATE

}  // namespace plimsoll::cuda
