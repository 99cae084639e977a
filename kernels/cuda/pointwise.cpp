#include "kernels/cuda/pointwise.hpp"

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/register.hpp"
#include "runtime/core/rng.hpp"

namespace plimsoll {
namespace {

using namespace cuda;

template <class T>
void activate_forward(const KernelArgs& args) {
  activate(stream_of(args), args.attrs<Activate>().kind, args.v<const T>(Activate::kX), args.v<T>(Activate::kY),
           args.value[Activate::kX].spec.elements());
}

template <class T>
void activate_backward(const KernelArgs& args) {
  if (!args.grad[Activate::kX] || without_gradient<Activate>(args, Activate::kY)) return;
  activate_gradient(stream_of(args), args.attrs<Activate>().kind, args.v<const T>(Activate::kX),
                    args.g<const T>(Activate::kY), args.g<T>(Activate::kX), args.grad[Activate::kX].spec.elements(),
                    args.accumulates(Activate::kX));
}

template <class T>
void swiglu_forward(const KernelArgs& args) {
  const TensorSpec& y = args.value[SwiGlu::kY].spec;
  swiglu(stream_of(args), args.v<const T>(SwiGlu::kX), args.v<T>(SwiGlu::kY), y.rows(), y.last());
}

template <class T>
void swiglu_backward(const KernelArgs& args) {
  if (!args.grad[SwiGlu::kX] || without_gradient<SwiGlu>(args, SwiGlu::kY)) return;
  const TensorSpec& y = args.grad[SwiGlu::kY].spec;
  swiglu_gradient(stream_of(args), args.v<const T>(SwiGlu::kX), args.g<const T>(SwiGlu::kY), args.g<T>(SwiGlu::kX),
                  y.rows(), y.last(), args.accumulates(SwiGlu::kX));
}

template <class T>
void add_forward(const KernelArgs& args) {
  add(stream_of(args), args.v<const T>(Add::kA), args.v<const T>(Add::kB), args.v<T>(Add::kY),
      args.value[Add::kY].spec.elements());
}

template <class T>
void add_backward(const KernelArgs& args) {
  if (!args.grad[Add::kA] || without_gradient<Add>(args, Add::kY)) return;
  const T* dy = args.g<T>(Add::kY);
  T* da = args.g<T>(Add::kA);
  if (dy == da && !args.accumulates(Add::kA)) return;
  scale(stream_of(args), dy, da, args.grad[Add::kY].spec.elements(), 1.0F, args.accumulates(Add::kA));
}

template <class T>
void scale_forward(const KernelArgs& args) {
  scale(stream_of(args), args.v<const T>(Scale::kX), args.v<T>(Scale::kY), args.value[Scale::kY].spec.elements(),
        static_cast<float>(args.attrs<Scale>().factor), false);
}

// The last stage of a pipeline copies its loss so, for the others.
void scale_doubles(const KernelArgs& args) {
  scale(stream_of(args), args.v<const double>(Scale::kX), args.v<double>(Scale::kY),
        args.value[Scale::kY].spec.elements(), args.attrs<Scale>().factor);
}
template <class T>
void scale_backward(const KernelArgs& args) {
  if (!args.grad[Scale::kX] || without_gradient<Scale>(args, Scale::kY)) return;
  scale(stream_of(args), args.g<const T>(Scale::kY), args.g<T>(Scale::kX), args.grad[Scale::kY].spec.elements(),
        static_cast<float>(args.attrs<Scale>().factor), args.accumulates(Scale::kX));
}

void cast_view(const KernelArgs& args, const View& from, const View& to, bool accumulate) {
  require(is_floating(from.spec.dtype) && is_floating(to.spec.dtype), ErrorKind::Internal, "cast: {} to {}",
          to_string(from.spec), to_string(to.spec));
  cast(stream_of(args), from.spec.dtype, from.data, to.spec.dtype, to.data, from.spec.elements(), accumulate);
}

void cast_forward(const KernelArgs& args) { cast_view(args, args.value[Cast::kX], args.value[Cast::kY], false); }

void cast_backward(const KernelArgs& args) {
  if (!args.grad[Cast::kX] || without_gradient<Cast>(args, Cast::kY)) return;
  cast_view(args, args.grad[Cast::kY], args.grad[Cast::kX], args.accumulates(Cast::kX));
}

// Backward is the same map of the gradient. The numbers of a mask are those of the place in the whole sequence, of
// which x may have a part.
template <class T>
void dropout_map(const KernelArgs& args, const View& from, const View& to, bool accumulate) {
  const auto& attrs = args.attrs<Dropout>();
  const Shape& shape = from.spec.shape;
  DropoutRange range;
  range.n = from.spec.elements();
  range.part = range.n / shape[0];
  const std::int64_t column = attrs.columns > 0 ? range.part / shape[1] : 0;  // elements
  range.whole = static_cast<std::uint64_t>(attrs.columns > 0 ? attrs.columns * column : range.part);
  range.skipped = static_cast<std::uint64_t>(attrs.first_column * column);
  range.site = attrs.site;
  range.threshold = dropout_threshold(attrs.p);
  range.kept = static_cast<float>(1 / (1 - attrs.p));
  dropout(stream_of(args), range, args.inputs, from.as<const T>(), to.as<T>(), accumulate);
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

}  // namespace

void add_cuda_pointwise_kernels(KernelTable& table) {
  for_each_type([&]<class T>(T) {
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
  });
  table.add<Scale>(Phase::Forward, DType::f64, scale_doubles);
  for (const DType from : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
    table.add<Cast>(Phase::Forward, from, cast_forward);
    table.add<Cast>(Phase::InputGrad, from, cast_backward);
  }
}

}  // namespace plimsoll
