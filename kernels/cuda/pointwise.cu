#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/check.hpp"
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/pointwise.hpp"
#include "kernels/cuda/random.cuh"

namespace plimsoll::cuda {
namespace {

constexpr unsigned kThreads = 256;

// out[i] (+)= f(a[i], b[i]); b may be null. A thread reads its elements before it writes them.
template <class T, class F>
__global__ void map_kernel(std::int64_t n, const T* a, const T* b, T* out, bool aligned, bool accumulate, F f) {
  const std::int64_t at = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kPack<T>;
  if (at >= n) return;
  Pack<T> x = load(a, at, n, aligned), y{};
  if (b != nullptr) y = load(b, at, n, aligned);
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) x.at[i] = f(x.at[i], y.at[i]);
  store(out, at, n, aligned, x, accumulate);
}

template <class T, class F>
void map(cudaStream_t stream, std::int64_t n, const T* a, const T* b, T* out, bool accumulate, F f) {
  if (n == 0) return;
  map_kernel<T><<<blocks_for(n, kThreads * kPack<T>), kThreads, 0, stream>>>(n, a, b, out, wide<T>(0, {a, b, out}),
                                                                             accumulate, f);
  check_launch("an elementwise kernel");
}

struct Value {
  Activation kind;
  __device__ float operator()(float x, float) const { return activation_value(kind, x); }
};
struct Slope {
  Activation kind;
  __device__ float operator()(float x, float dy) const { return dy * activation_slope(kind, x); }
};
struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Factor {
  float factor;
  __device__ float operator()(float x, float) const { return factor * x; }
};

// A block has kThreads packs of the f columns of one row.
struct SwiGluPlace {
  std::int64_t row, column;
  __device__ SwiGluPlace(unsigned blocks_per_row, int pack)
      : row(blockIdx.x / blocks_per_row),
        column((std::int64_t{blockIdx.x % blocks_per_row} * kThreads + threadIdx.x) * pack) {}
};

template <class T>
__global__ void swiglu_kernel(const T* x, T* y, std::int64_t f, unsigned blocks_per_row, bool aligned) {
  const SwiGluPlace at(blocks_per_row, kPack<T>);
  if (at.column >= f) return;
  const T* gates = x + at.row * 2 * f;
  Pack<T> gate = load(gates, at.column, f, aligned);
  const Pack<T> up = load(gates + f, at.column, f, aligned);
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) gate.at[i] = gate.at[i] * Sigmoid(gate.at[i]).value * up.at[i];
  store(y + at.row * f, at.column, f, aligned, gate);
}

template <class T>
__global__ void swiglu_gradient_kernel(const T* x, const T* dy, T* dx, std::int64_t f, unsigned blocks_per_row,
                                       bool aligned, bool accumulate) {
  const SwiGluPlace at(blocks_per_row, kPack<T>);
  if (at.column >= f) return;
  const T* gates = x + at.row * 2 * f;
  Pack<T> gate = load(gates, at.column, f, aligned), up = load(gates + f, at.column, f, aligned);
  const Pack<T> d = load(dy + at.row * f, at.column, f, aligned);
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) {
    const Sigmoid s(gate.at[i]);
    const float to_gate = d.at[i] * up.at[i] * (s.value + gate.at[i] * s.slope);
    up.at[i] = d.at[i] * gate.at[i] * s.value;
    gate.at[i] = to_gate;
  }
  T* gradients = dx + at.row * 2 * f;
  store(gradients, at.column, f, aligned, gate, accumulate);
  store(gradients + f, at.column, f, aligned, up, accumulate);
}

// double is the storage and arithmetic type of itself. To bf16 and f16 through float with the last bit set when
// anything was lost: rounding that once more is rounding once.
template <class To>
__device__ To converted(float x) {
  return narrow<To>(x);
}
template <>
__device__ double converted<double>(float x) {
  return x;
}
template <class To>
__device__ To converted(double x) {
  const float cut = __double2float_rz(x);
  const bool exact = static_cast<double>(cut) == x;
  return narrow<To>(exact ? cut : __uint_as_float(__float_as_uint(cut) | 1U));
}
template <>
__device__ float converted<float>(double x) {
  return __double2float_rn(x);
}
template <>
__device__ double converted<double>(double x) {
  return x;
}

// Elements of a thread: 16 bytes in the narrower of two dtypes.
template <class From, class To>
constexpr int kCastElements = kPack<From> > kPack<To> ? kPack<From> : kPack<To>;

template <class From, class To>
__global__ void cast_kernel(const From* from, To* to, std::int64_t n, bool aligned, bool accumulate) {
  constexpr int kElements = kCastElements<From, To>, kFrom = kPack<From>, kTo = kPack<To>;
  const std::int64_t at = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kElements;
  if (at >= n) return;
  Stored<From> x[kElements / kFrom];
#pragma unroll
  for (int p = 0; p < kElements / kFrom; ++p) x[p] = load_stored(from, at + p * kFrom, n, aligned);
#pragma unroll
  for (int p = 0; p < kElements / kTo; ++p) {
    Stored<To> y, old{};
    if (accumulate) old = load_stored(to, at + p * kTo, n, aligned);
#pragma unroll
    for (int i = 0; i < kTo; ++i) {
      y.at[i] = converted<To>(widen(x[(p * kTo + i) / kFrom].at[(p * kTo + i) % kFrom]));
      if (accumulate) y.at[i] = converted<To>(widen(old.at[i]) + widen(y.at[i]));
    }
    store(to, at + p * kTo, n, aligned, y);
  }
}

template <class From, class To>
void cast_pair(cudaStream_t stream, const void* from, void* to, std::int64_t n, bool accumulate) {
  cast_kernel<<<blocks_for(n, std::int64_t{kThreads} * kCastElements<From, To>), kThreads, 0, stream>>>(
      static_cast<const From*>(from), static_cast<To*>(to), n, is_aligned(from) && is_aligned(to), accumulate);
}

template <class From>
void cast_from(cudaStream_t stream, const void* from, DType to_type, void* to, std::int64_t n, bool accumulate) {
  switch (to_type) {
    case DType::f32: return cast_pair<From, float>(stream, from, to, n, accumulate);
    case DType::f64: return cast_pair<From, double>(stream, from, to, n, accumulate);
    case DType::bf16: return cast_pair<From, bf16>(stream, from, to, n, accumulate);
    case DType::f16: return cast_pair<From, f16>(stream, from, to, n, accumulate);
    default: return;
  }
}

__global__ void scale_doubles_kernel(const double* x, double* y, std::int64_t n, double factor) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < n) y[i] = factor * x[i];
}

template <class T>
__global__ void dropout_kernel(DropoutRange range, const StepInputs* inputs, const T* x, T* y, bool aligned,
                               bool accumulate) {
  const std::int64_t at = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kPack<T>;
  if (at >= range.n) return;
  std::int64_t sample = at / range.part, element = at % range.part;
  RandomEntries random(inputs->seed, range.site);
  Pack<T> pack = load(x, at, range.n, aligned);
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) {
    const std::uint64_t index = (inputs->first_sample + static_cast<std::uint64_t>(sample)) * range.whole +
                                range.skipped + static_cast<std::uint64_t>(element);
    pack.at[i] = random[index] < range.threshold ? 0.0F : pack.at[i] * range.kept;
    if (++element == range.part) element = 0, ++sample;
  }
  store(y, at, range.n, aligned, pack, accumulate);
}

}  // namespace

template <class T>
void activate(cudaStream_t stream, Activation kind, const T* x, T* y, std::int64_t n) {
  map(stream, n, x, static_cast<const T*>(nullptr), y, false, Value{kind});
}

template <class T>
void activate_gradient(cudaStream_t stream, Activation kind, const T* x, const T* dy, T* dx, std::int64_t n,
                       bool accumulate) {
  map(stream, n, x, dy, dx, accumulate, Slope{kind});
}

template <class T>
void swiglu(cudaStream_t stream, const T* x, T* y, std::int64_t rows, std::int64_t f) {
  if (rows == 0 || f == 0) return;
  const unsigned per_row = blocks_for(f, kThreads * kPack<T>);
  swiglu_kernel<T>
      <<<static_cast<unsigned>(rows) * per_row, kThreads, 0, stream>>>(x, y, f, per_row, wide<T>(f, {x, y}));
  check_launch("swiglu");
}

template <class T>
void swiglu_gradient(cudaStream_t stream, const T* x, const T* dy, T* dx, std::int64_t rows, std::int64_t f,
                     bool accumulate) {
  if (rows == 0 || f == 0) return;
  const unsigned per_row = blocks_for(f, kThreads * kPack<T>);
  swiglu_gradient_kernel<T><<<static_cast<unsigned>(rows) * per_row, kThreads, 0, stream>>>(
      x, dy, dx, f, per_row, wide<T>(f, {x, dy, dx}), accumulate);
  check_launch("swiglu_gradient");
}

template <class T>
void add(cudaStream_t stream, const T* a, const T* b, T* y, std::int64_t n) {
  map(stream, n, a, b, y, false, Sum{});
}

template <class T>
void scale(cudaStream_t stream, const T* x, T* y, std::int64_t n, float factor, bool accumulate) {
  if (x == y && factor == 1.0F) return;
  map(stream, n, x, static_cast<const T*>(nullptr), y, accumulate, Factor{factor});
}

void scale(cudaStream_t stream, const double* x, double* y, std::int64_t n, double factor) {
  if (n == 0 || (x == y && factor == 1)) return;
  scale_doubles_kernel<<<blocks_for(n, kThreads), kThreads, 0, stream>>>(x, y, n, factor);
  check_launch("scale");
}

void cast(cudaStream_t stream, DType from_type, const void* from, DType to_type, void* to, std::int64_t n,
          bool accumulate) {
  if (n == 0) return;
  switch (from_type) {
    case DType::f32: cast_from<float>(stream, from, to_type, to, n, accumulate); break;
    case DType::f64: cast_from<double>(stream, from, to_type, to, n, accumulate); break;
    case DType::bf16: cast_from<bf16>(stream, from, to_type, to, n, accumulate); break;
    case DType::f16: cast_from<f16>(stream, from, to_type, to, n, accumulate); break;
    default: break;
  }
  check_launch("cast");
}

template <class T>
void dropout(cudaStream_t stream, const DropoutRange& range, const StepInputs* inputs, const T* x, T* y,
             bool accumulate) {
  if (range.n == 0) return;
  dropout_kernel<T><<<blocks_for(range.n, kThreads * kPack<T>), kThreads, 0, stream>>>(range, inputs, x, y,
                                                                                       wide<T>(0, {x, y}), accumulate);
  check_launch("dropout");
}

#define PLIMSOLL_INSTANTIATE(T)                                                                          \
  template void activate(cudaStream_t, Activation, const T*, T*, std::int64_t);                          \
  template void activate_gradient(cudaStream_t, Activation, const T*, const T*, T*, std::int64_t, bool); \
  template void swiglu(cudaStream_t, const T*, T*, std::int64_t, std::int64_t);                          \
  template void swiglu_gradient(cudaStream_t, const T*, const T*, T*, std::int64_t, std::int64_t, bool); \
  template void add(cudaStream_t, const T*, const T*, T*, std::int64_t);                                 \
  template void scale(cudaStream_t, const T*, T*, std::int64_t, float, bool);                            \
  template void dropout(cudaStream_t, const DropoutRange&, const StepInputs*, const T*, T*, bool);
PLIMSOLL_INSTANTIATE(float)
PLIMSOLL_INSTANTIATE(bf16)
PLIMSOLL_INSTANTIATE(f16)
#undef PLIMSOLL_INSTANTIATE

}  // namespace plimsoll::cuda
