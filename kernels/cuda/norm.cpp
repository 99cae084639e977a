#include "kernels/cuda/norm.hpp"

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/register.hpp"
#include "kernels/norm_slots.hpp"

namespace plimsoll {
namespace {

using namespace cuda;

NormUnits units_of(const TensorSpec& x) { return {x.rows(), x.last(), x.last(), 1, 1}; }

template <class Op, class T>
void norm_forward(const KernelArgs& args) {
  constexpr NormSlots s = slots_of_norm<Op>();
  NormForward<T> n;
  n.x = args.v<T>(s.x);
  n.residual = value_or_null<T>(args, s.residual);
  n.weight = args.v<T>(s.weight);
  n.bias = value_or_null<T>(args, s.bias);
  n.sum = value_or_null<T>(args, s.sum);
  n.y = args.v<T>(s.y);
  n.mean = value_or_null<float>(args, s.mean);
  n.rstd = args.v<float>(s.rstd);
  n.eps = args.attrs<Op>().eps;
  norm(stream_of(args), units_of(args.value[s.x].spec), n);
}

// The gradient that only passes through (dy is zero): dx = dsum.
template <class Op, class T>
void pass_sum_gradient(const KernelArgs& args) {
  constexpr NormSlots s = slots_of_norm<Op>();
  const View &dsum = args.grad[s.sum], &dx = args.grad[s.x];
  const std::int64_t rows = dsum.spec.rows(), h = dsum.spec.last();
  if (dx && dx.data != dsum.data)
    copy_columns(stream_of(args), dsum.as<const T>(), dx.as<T>(), rows, h, h, args.accumulates(s.x));
  for (const int slot : {s.weight, s.bias}) {
    if (slot >= 0 && args.grad[slot] && !args.accumulates(slot)) zero(args, args.grad[slot]);
  }
}

template <class Op, class T>
void norm_backward(const KernelArgs& args) {
  constexpr NormSlots s = slots_of_norm<Op>();
  NormBackward<T> n;
  n.dy = args.g<T>(s.y);
  n.dsum = grad_or_null<T>(args, s.sum);
  if (n.dy == nullptr) {
    if (n.dsum != nullptr) return pass_sum_gradient<Op, T>(args);
    return static_cast<void>(without_gradient<Op>(args, s.y));
  }
  n.x = args.v<T>(s.sum >= 0 ? s.sum : s.x);
  n.weight = args.v<T>(s.weight);
  n.mean = value_or_null<float>(args, s.mean);
  n.rstd = args.v<float>(s.rstd);
  n.dx = args.g<T>(s.x);
  n.accumulate = args.accumulates(s.x);
  const NormUnits units = units_of(args.grad[s.y].spec);
  const std::int64_t blocks = norm_row_blocks(units.rows);
  auto* partials = reinterpret_cast<float*>(args.workspace);
  float *dweight = args.g<float>(s.weight), *dbias = grad_or_null<float>(args, s.bias);
  // Sums first: dx may lie over dsum, but not over what they read.
  if (dweight != nullptr || dbias != nullptr)
    norm_partials(stream_of(args), units, n, dbias != nullptr ? SecondSum::Bias : SecondSum::None, blocks, partials);
  if (dweight != nullptr) sum_partials(stream_of(args), partials, blocks, units.h, dweight, args.accumulates(s.weight));
  if (dbias != nullptr)
    sum_partials(stream_of(args), partials + blocks * units.h, blocks, units.h, dbias, args.accumulates(s.bias));
  if (n.dx != nullptr) norm_gradient(stream_of(args), units, n);
}

NormUnits head_units(const HeadNorm::Attrs& a, const TensorSpec& x) {
  return {x.rows(), x.last(), a.head_dim, a.heads + a.kv_heads, a.heads};
}

// The value heads, which pass unchanged.
template <class T>
void copy_values(const KernelArgs& args, const View& from, const View& to, bool accumulate) {
  const auto& a = args.attrs<HeadNorm>();
  const std::int64_t first = std::int64_t{a.heads + a.kv_heads} * a.head_dim, width = from.spec.last();
  copy_columns(stream_of(args), from.as<const T>() + first, to.as<T>() + first, from.spec.rows(), width - first, width,
               accumulate);
}

template <class T>
void head_norm_forward(const KernelArgs& args) {
  using Op = HeadNorm;
  NormForward<T> n;
  n.x = args.v<T>(Op::kX);
  n.weight = args.v<T>(Op::kQueryWeight);
  n.rest_weight = args.v<T>(Op::kKeyWeight);
  n.y = args.v<T>(Op::kY);
  n.rstd = args.v<float>(Op::kRstd);
  n.eps = args.attrs<Op>().eps;
  norm(stream_of(args), head_units(args.attrs<Op>(), args.value[Op::kX].spec), n);
  copy_values<T>(args, args.value[Op::kX], args.value[Op::kY], false);
}

template <class T>
void head_norm_backward(const KernelArgs& args) {
  using Op = HeadNorm;
  if (without_gradient<Op>(args, Op::kY)) return;
  NormBackward<T> n;
  n.x = args.v<T>(Op::kX);
  n.dy = args.g<T>(Op::kY);
  n.weight = args.v<T>(Op::kQueryWeight);
  n.rest_weight = args.v<T>(Op::kKeyWeight);
  n.rstd = args.v<float>(Op::kRstd);
  n.dx = args.g<T>(Op::kX);
  n.accumulate = args.accumulates(Op::kX);
  const NormUnits units = head_units(args.attrs<Op>(), args.grad[Op::kY].spec);
  const std::int64_t blocks = norm_row_blocks(units.rows);
  auto* partials = reinterpret_cast<float*>(args.workspace);
  float *dquery = args.g<float>(Op::kQueryWeight), *dkey = args.g<float>(Op::kKeyWeight);
  if (dquery != nullptr || dkey != nullptr) norm_partials(stream_of(args), units, n, SecondSum::Rest, blocks, partials);
  if (dquery != nullptr)
    sum_partials(stream_of(args), partials, blocks, units.h, dquery, args.accumulates(Op::kQueryWeight));
  if (dkey != nullptr)
    sum_partials(stream_of(args), partials + blocks * units.h, blocks, units.h, dkey, args.accumulates(Op::kKeyWeight));
  if (n.dx == nullptr) return;
  norm_gradient(stream_of(args), units, n);
  copy_values<T>(args, args.grad[Op::kY], args.grad[Op::kX], n.accumulate);
}

template <class Op, class T>
void add_norm(KernelTable& table) {
  table.add<Op>(Phase::Forward, dtype_of<T>(), norm_forward<Op, T>);
  table.add<Op>(Phase::InputGrad, dtype_of<T>(), norm_backward<Op, T>);
}

}  // namespace

void add_cuda_norm_kernels(KernelTable& table) {
  for_each_type([&]<class T>(T) {
    add_norm<LayerNorm, T>(table);
    add_norm<RmsNorm, T>(table);
    add_norm<AddLayerNorm, T>(table);
    add_norm<AddRmsNorm, T>(table);
    table.add<HeadNorm>(Phase::Forward, dtype_of<T>(), head_norm_forward<T>);
    table.add<HeadNorm>(Phase::InputGrad, dtype_of<T>(), head_norm_backward<T>);
  });
}

}  // namespace plimsoll
