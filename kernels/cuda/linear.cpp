#include "kernels/cuda/column_sums.hpp"
#include "kernels/cuda/embedding.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/pointwise.hpp"
#include "kernels/cuda/product.hpp"
#include "kernels/cuda/register.hpp"

namespace plimsoll {
namespace {

using namespace cuda;

ProductWorkspace workspace_of(const KernelArgs& args) {
  return {args.workspace, args.workspace == nullptr ? 0 : product_workspace_bytes(args.threads)};
}

// y = act(pre), pre = x · W + b. Where pre is kept, the activation is a kernel of its own: `again` makes it from pre,
// with the same bits. The library's GELU is good for 16 bits only: how it approximates tanh is not said.
template <class T, bool tf32, bool epilogues>
void linear_forward(const KernelArgs& args) {
  const auto& a = args.attrs<Linear>();
  const TensorSpec &x = args.value[Linear::kX].spec, &y = args.value[Linear::kY].spec;
  Product p{.trans_b = !a.weight_in_out, .m = x.rows(), .n = y.last(), .k = x.last()};
  p.a = args.value[Linear::kX].data;
  p.lda = p.k;
  p.b = args.value[Linear::kWeight].data;
  p.ldb = a.weight_in_out ? p.n : p.k;
  p.in = p.out = dtype_of<T>();
  T *result = args.v<T>(Linear::kY), *pre = args.v<T>(Linear::kPre);
  if (pre == nullptr) pre = result;
  p.c = pre;
  p.ldc = p.n;
  p.tf32 = tf32;
  const ProductWorkspace workspace = workspace_of(args);
  T* bias = args.v<T>(Linear::kBias);
  p.vector = bias;
  if (epilogues && sizeof(T) == 2 && a.activation == Activation::GeluTanh && !a.keeps_pre) {
    p.epilogue = bias != nullptr ? Epilogue::GeluBias : Epilogue::Gelu;
    if (try_multiply(stream_of(args), workspace, p)) return;
  }
  p.epilogue = Epilogue::Bias;
  if (!epilogues || bias == nullptr || !try_multiply(stream_of(args), workspace, p)) {
    p.epilogue = Epilogue::None;
    multiply(stream_of(args), workspace, p);
    if (bias != nullptr) add_rows<T>(stream_of(args), pre, bias, false, args.inputs, 0, pre, p.m, p.m, p.n);
  }
  if (a.activation != Activation::None) activate<T>(stream_of(args), a.activation, pre, result, p.m * p.n);
}

// dx = dpre · W, with dpre = dy · act'(pre) left for WeightGrad.
template <class T, bool tf32>
void linear_input_grad(const KernelArgs& args) {
  const auto& a = args.attrs<Linear>();
  if (without_gradient<Linear>(args, Linear::kY)) {
    if (args.grad[Linear::kPre]) zero(args, args.grad[Linear::kPre]);
    return;
  }
  const TensorSpec &y = args.grad[Linear::kY].spec, &weight = args.value[Linear::kWeight].spec;
  const T* dy = args.g<T>(Linear::kY);
  if (a.activation != Activation::None) {
    T* dpre = args.g<T>(Linear::kPre);
    activate_gradient<T>(stream_of(args), a.activation, args.v<T>(Linear::kPre), dy, dpre, y.elements(), false);
    dy = dpre;
  }
  if (!args.grad[Linear::kX]) return;
  Product p{.trans_b = a.weight_in_out, .m = y.rows(), .n = weight.shape[a.weight_in_out ? 0 : 1], .k = y.last()};
  p.a = dy;
  p.lda = p.k;
  p.b = args.value[Linear::kWeight].data;
  p.ldb = a.weight_in_out ? p.k : p.n;
  p.in = p.out = dtype_of<T>();
  p.c = args.grad[Linear::kX].data;
  p.ldc = p.n;
  p.accumulate = args.accumulates(Linear::kX);
  p.tf32 = tf32;
  multiply(stream_of(args), workspace_of(args), p);
}

// Room at the end of the workspace: the library overwrites sums of a gradient, it cannot add to them.
float* take_sums(ProductWorkspace& workspace, std::int64_t count) {
  constexpr std::int64_t kAlignment = 256;
  const std::int64_t bytes = (count * dtype_bytes(DType::f32) + kAlignment - 1) / kAlignment * kAlignment;
  require(bytes <= workspace.bytes, ErrorKind::Internal, "the sums of {} columns do not fit the workspace of {} bytes",
          count, workspace.bytes);
  workspace.bytes -= bytes;
  return reinterpret_cast<float*>(static_cast<std::byte*>(workspace.data) + workspace.bytes);
}

// dW [out, in] = dyᵀ · x, or [in, out] = xᵀ · dy, in float; the gradient of the bias is the sum over the rows of dy.
template <class T, bool tf32, bool epilogues>
void linear_weight_grad(const KernelArgs& args) {
  const auto& a = args.attrs<Linear>();
  const int from = a.activation == Activation::None ? Linear::kY : Linear::kPre;
  if (without_gradient<Linear>(args, from)) return;
  const View &gradient = args.grad[from], &x = args.value[Linear::kX];
  const std::int64_t in = x.spec.last(), out = gradient.spec.last(), rows = x.spec.rows();
  auto* bias = args.g<float>(Linear::kBias);
  bool summed = bias == nullptr;
  if (args.grad[Linear::kWeight]) {
    const View &first = a.weight_in_out ? x : gradient, &second = a.weight_in_out ? gradient : x;
    Product p{.trans_a = true, .m = first.spec.last(), .n = second.spec.last(), .k = rows};
    p.a = first.data;
    p.lda = p.m;
    p.b = second.data;
    p.ldb = p.n;
    p.in = dtype_of<T>();
    p.c = args.grad[Linear::kWeight].data;
    p.ldc = a.weight_in_out ? out : in;
    p.accumulate = args.accumulates(Linear::kWeight);
    p.tf32 = tf32;
    if (epilogues && !summed) {
      p.epilogue = a.weight_in_out ? Epilogue::SumB : Epilogue::SumA;
      const bool adds = args.accumulates(Linear::kBias);
      ProductWorkspace workspace = workspace_of(args);
      p.vector = adds ? take_sums(workspace, out) : bias;
      summed = try_multiply(stream_of(args), workspace, p);
      if (summed && adds) scale(stream_of(args), static_cast<const float*>(p.vector), bias, out, 1, true);
    }
    if (p.epilogue == Epilogue::None || !summed) {
      p.epilogue = Epilogue::None;
      multiply(stream_of(args), workspace_of(args), p);
    }
  }
  if (!summed) column_sums(stream_of(args), gradient.as<const T>(), rows, out, bias, args.accumulates(Linear::kBias));
}

template <class T, bool tf32, bool epilogues>
void add_for_type(KernelTable& table) {
  table.add<Linear>(Phase::Forward, dtype_of<T>(), linear_forward<T, tf32, epilogues>);
  table.add<Linear>(Phase::InputGrad, dtype_of<T>(), linear_input_grad<T, tf32>);
  table.add<Linear>(Phase::WeightGrad, dtype_of<T>(), linear_weight_grad<T, tf32, epilogues>);
}

}  // namespace

void add_cuda_linear_kernels(KernelTable& table, bool tf32, bool epilogues) {
  for_each_product_type(tf32, [&]<class T, bool kTf32>(T, std::bool_constant<kTf32>) {
    epilogues ? add_for_type<T, kTf32, true>(table) : add_for_type<T, kTf32, false>(table);
  });
}

}  // namespace plimsoll
