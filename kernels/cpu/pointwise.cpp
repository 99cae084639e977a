#include "runtime/ops/pointwise.hpp"

#include <array>
#include <cstring>

#include "kernels/cpu/activation.hpp"
#include "kernels/cpu/cast.hpp"
#include "kernels/cpu/parallel.hpp"
#include "kernels/cpu/random.hpp"
#include "kernels/cpu/register.hpp"

namespace plimsoll {
namespace {

template <class T>
void activate_forward(const KernelArgs& args) {
  const T* x = args.v<T>(Activate::kX);
  T* y = args.v<T>(Activate::kY);
  with_activation(args.attrs<Activate>().kind, [&](auto kind) {
    parallel_elements(
        args.threads, args.value[Activate::kX].spec.elements(),
        [=](std::int64_t begin, std::int64_t end) { activate_range<kind()>(x + begin, y + begin, end - begin); });
  });
}

template <class T>
void activate_backward(const KernelArgs& args) {
  if (!args.grad[Activate::kX] || without_gradient<Activate>(args, Activate::kY)) return;
  const T *x = args.v<T>(Activate::kX), *dy = args.g<T>(Activate::kY);
  T* dx = args.g<T>(Activate::kX);
  const bool accumulate = args.accumulates(Activate::kX);
  with_activation(args.attrs<Activate>().kind, [&](auto kind) {
    parallel_elements(args.threads, args.grad[Activate::kX].spec.elements(), [=](std::int64_t begin, std::int64_t end) {
      store_range(dx, accumulate, begin, end,
                  [=](std::int64_t i) { return widen(dy[i]) * activation_slope<kind()>(widen(x[i])); });
    });
  });
}

// Calls body(row, begin, end) for ranges of the f columns of each row of [gate | up].
template <class F>
void swiglu_ranges(int threads, std::int64_t rows, std::int64_t f, F&& body) {
  const std::int64_t per_row = (f + kBlockElements - 1) / kBlockElements;
  parallel_blocks(threads, rows * per_row, rows * f, [&](std::int64_t b) {
    const std::int64_t begin = b % per_row * kBlockElements;
    body(b / per_row, begin, std::min(f, begin + kBlockElements));
  });
}

template <class T>
void swiglu_forward(const KernelArgs& args) {
  const T* x = args.v<T>(SwiGlu::kX);
  T* y = args.v<T>(SwiGlu::kY);
  const TensorSpec& spec = args.value[SwiGlu::kY].spec;
  const std::int64_t f = spec.last();
  swiglu_ranges(args.threads, spec.rows(), f, [=](std::int64_t row, std::int64_t begin, std::int64_t end) {
    const T *gate = x + row * 2 * f, *up = gate + f;
    store_range(y + row * f, false, begin, end,
                [=](std::int64_t i) { return widen(gate[i]) * vec::sigmoid(widen(gate[i])) * widen(up[i]); });
  });
}

template <bool Accumulate, class T>
void swiglu_gradients(const T* gate, const T* up, const T* dy, T* dgate, T* dup, std::int64_t begin, std::int64_t end) {
  using W = Wide<T>;
#pragma omp simd
  for (std::int64_t i = begin; i < end; ++i) {
    const W g = widen(gate[i]), d = widen(dy[i]);
    const SigmoidSlope<W> s(g);
    const W to_gate = d * widen(up[i]) * (s.value + g * s.slope), to_up = d * g * s.value;
    dgate[i] = convert<T>(Accumulate ? widen(dgate[i]) + to_gate : to_gate);
    dup[i] = convert<T>(Accumulate ? widen(dup[i]) + to_up : to_up);
  }
}

template <class T>
void swiglu_backward(const KernelArgs& args) {
  if (!args.grad[SwiGlu::kX] || without_gradient<SwiGlu>(args, SwiGlu::kY)) return;
  const T *x = args.v<T>(SwiGlu::kX), *dy = args.g<T>(SwiGlu::kY);
  T* dx = args.g<T>(SwiGlu::kX);
  const TensorSpec& spec = args.grad[SwiGlu::kY].spec;
  const std::int64_t f = spec.last();
  const auto gradients = args.accumulates(SwiGlu::kX) ? swiglu_gradients<true, T> : swiglu_gradients<false, T>;
  swiglu_ranges(args.threads, spec.rows(), f, [=](std::int64_t row, std::int64_t begin, std::int64_t end) {
    const T* gate = x + row * 2 * f;
    T* dgate = dx + row * 2 * f;
    gradients(gate, gate + f, dy + row * f, dgate, dgate + f, begin, end);
  });
}

template <class T>
void add_forward(const KernelArgs& args) {
  const T *a = args.v<T>(Add::kA), *b = args.v<T>(Add::kB);
  T* y = args.v<T>(Add::kY);
  parallel_elements(args.threads, args.value[Add::kY].spec.elements(), [=](std::int64_t begin, std::int64_t end) {
    store_range(y, false, begin, end, [=](std::int64_t i) { return widen(a[i]) + widen(b[i]); });
  });
}

// out = factor·in, or out += factor·in; `in` may be `out` when nothing is accumulated.
template <class T>
void scale_elements(const KernelArgs& args, const T* in, T* out, std::int64_t n, Wide<T> factor, bool accumulate) {
  if (in == out && factor == 1) return;
  parallel_elements(args.threads, n, [=](std::int64_t begin, std::int64_t end) {
    store_range(out, accumulate, begin, end, [=](std::int64_t i) { return factor * widen(in[i]); });
  });
}

template <class T>
void add_backward(const KernelArgs& args) {
  if (!args.grad[Add::kA] || without_gradient<Add>(args, Add::kY)) return;
  scale_elements(args, args.g<T>(Add::kY), args.g<T>(Add::kA), args.grad[Add::kY].spec.elements(), 1,
                 args.accumulates(Add::kA));
}

template <class T>
void scale_forward(const KernelArgs& args) {
  scale_elements(args, args.v<T>(Scale::kX), args.v<T>(Scale::kY), args.value[Scale::kY].spec.elements(),
                 static_cast<Wide<T>>(args.attrs<Scale>().factor), false);
}

template <class T>
void scale_backward(const KernelArgs& args) {
  if (!args.grad[Scale::kX] || without_gradient<Scale>(args, Scale::kY)) return;
  scale_elements(args, args.g<T>(Scale::kY), args.g<T>(Scale::kX), args.grad[Scale::kY].spec.elements(),
                 static_cast<Wide<T>>(args.attrs<Scale>().factor), args.accumulates(Scale::kX));
}

template <class From, class To>
void cast_elements(int threads, const void* in, void* out, std::int64_t n, bool accumulate) {
  const From* x = static_cast<const From*>(in);
  To* y = static_cast<To*>(out);
  parallel_elements(threads, n, [=](std::int64_t begin, std::int64_t end) {
    if (accumulate) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) y[i] = convert<To>(widen(y[i]) + convert<Wide<To>>(x[i]));
    } else {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) y[i] = convert<To>(x[i]);
    }
  });
}

template <class From>
void cast_from(int threads, const View& in, const View& out, bool accumulate) {
  const std::int64_t n = in.spec.elements();
  switch (out.spec.dtype) {
    case DType::f32: return cast_elements<From, float>(threads, in.data, out.data, n, accumulate);
    case DType::f64: return cast_elements<From, double>(threads, in.data, out.data, n, accumulate);
    case DType::bf16: return cast_elements<From, bf16>(threads, in.data, out.data, n, accumulate);
    case DType::f16: return cast_elements<From, f16>(threads, in.data, out.data, n, accumulate);
    default: fail(ErrorKind::Internal, "cast: no conversion to {}", dtype_name(out.spec.dtype));
  }
}

void cast_view(int threads, const View& in, const View& out, bool accumulate) {
  switch (in.spec.dtype) {
    case DType::f32: return cast_from<float>(threads, in, out, accumulate);
    case DType::f64: return cast_from<double>(threads, in, out, accumulate);
    case DType::bf16: return cast_from<bf16>(threads, in, out, accumulate);
    case DType::f16: return cast_from<f16>(threads, in, out, accumulate);
    default: fail(ErrorKind::Internal, "cast: no conversion from {}", dtype_name(in.spec.dtype));
  }
}

void cast_forward(const KernelArgs& args) {
  cast_view(args.threads, args.value[Cast::kX], args.value[Cast::kY], false);
}

void cast_backward(const KernelArgs& args) {
  if (!args.grad[Cast::kX] || without_gradient<Cast>(args, Cast::kY)) return;
  cast_view(args.threads, args.grad[Cast::kY], args.grad[Cast::kX], args.accumulates(Cast::kX));
}

// out = in·mask/(1 - p); backward is the same map of the gradient. The bits of a mask are those of the place in the
// whole sequence, of which x may have a part.
template <class T>
void dropout_map(const KernelArgs& args, const View& from, const View& to, bool accumulate) {
  const auto& attrs = args.attrs<Dropout>();
  const T* in = from.as<T>();
  T* out = to.as<T>();
  const Shape& shape = from.spec.shape;
  const std::int64_t n = from.spec.elements(), part = n / shape[0];
  const std::int64_t column = attrs.columns > 0 ? part / shape[1] : 0;  // elements
  const auto whole = static_cast<std::uint64_t>(attrs.columns > 0 ? attrs.columns * column : part);
  const auto skipped = static_cast<std::uint64_t>(attrs.first_column * column);
  const std::uint64_t seed = args.inputs->seed, first_sample = args.inputs->first_sample;
  const std::uint32_t threshold = dropout_threshold(attrs.p);
  const auto scale = static_cast<Wide<T>>(1 / (1 - attrs.p));
  parallel_elements(args.threads, n, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t at = begin; at < end;) {
      const std::int64_t sample = at / part, last = std::min(end, (sample + 1) * part);
      const std::uint64_t place = (first_sample + static_cast<std::uint64_t>(sample)) * whole + skipped +
                                  static_cast<std::uint64_t>(at - sample * part);
      for_random_bits(
          seed, attrs.site, place, last - at, [=](std::int64_t offset, const std::uint32_t* bits, std::int64_t count) {
            const T* from_here = in + at + offset;
            store_range(out + at + offset, accumulate, 0, count,
                        [=](std::int64_t i) { return bits[i] < threshold ? Wide<T>(0) : widen(from_here[i]) * scale; });
          });
      at = last;
    }
  });
}

template <class T>
void dropout_forward(const KernelArgs& args) {
  dropout_map<T>(args, args.value[Dropout::kX], args.value[Dropout::kY], false);
}

template <class T>
void dropout_backward(const KernelArgs& args) {
  if (!args.grad[Dropout::kX] || without_gradient<Dropout>(args, Dropout::kY)) return;
  dropout_map<T>(args, args.grad[Dropout::kY], args.grad[Dropout::kX], args.accumulates(Dropout::kX));
}

template <class T>
void add_for_type(KernelTable& table) {
  constexpr DType type = dtype_of<T>();
  table.add<Activate>(Phase::Forward, type, activate_forward<T>);
  table.add<Activate>(Phase::InputGrad, type, activate_backward<T>);
  table.add<SwiGlu>(Phase::Forward, type, swiglu_forward<T>);
  table.add<SwiGlu>(Phase::InputGrad, type, swiglu_backward<T>);
  table.add<Add>(Phase::Forward, type, add_forward<T>);
  table.add<Add>(Phase::InputGrad, type, add_backward<T>);
  table.add<Scale>(Phase::Forward, type, scale_forward<T>);
  table.add<Scale>(Phase::InputGrad, type, scale_backward<T>);
  table.add<Dropout>(Phase::Forward, type, dropout_forward<T>);
  table.add<Dropout>(Phase::InputGrad, type, dropout_backward<T>);
}

}  // namespace

void add_pointwise_kernels(KernelTable& table) {
  add_for_type<float>(table);
  add_for_type<double>(table);
  add_for_type<bf16>(table);
  add_for_type<f16>(table);
  for (const DType from : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
    table.add<Cast>(Phase::Forward, from, cast_forward);
    table.add<Cast>(Phase::InputGrad, from, cast_backward);
  }
}

}  // namespace plimsoll
