#include "kernels/cuda/fp8.hpp"

#include "kernels/cuda/column_sums.hpp"
#include "kernels/cuda/embedding.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/pointwise.hpp"
#include "kernels/cuda/product.hpp"
#include "kernels/cuda/register.hpp"

namespace plimsoll {
namespace {

using namespace cuda;

template <class T>
void quantize_input(const KernelArgs& args) {
  const View& x = args.value[QuantizeFp8::kX];
  quantize_fp8<T>(stream_of(args), x.as<const T>(), x.spec.rows(), x.spec.last(), Fp8Role::Input, Fp8Order::Same,
                  args.v<Fp8Scaling>(QuantizeFp8::kScaling), args.inputs, args.v<std::uint8_t>(QuantizeFp8::kY),
                  nullptr);
}

// The workspace of a node, as its declaration counts it: two operands of one byte, the inverses of the scales, and what
// is the library's.
struct Operands {
  std::uint8_t *first, *second;
  float* inverses;
  ProductWorkspace library;
  Operands(const KernelArgs& args, std::int64_t first_elements, std::int64_t second_elements)
      : first(reinterpret_cast<std::uint8_t*>(args.workspace)),
        second(first + fp8_operand_bytes(first_elements, 1)),
        inverses(reinterpret_cast<float*>(second + fp8_operand_bytes(second_elements, 1))),
        library{reinterpret_cast<std::uint8_t*>(inverses) + kFp8Alignment, product_workspace_bytes(args.threads)} {}
  const float* inverse(Fp8Role role) const { return inverses + static_cast<int>(role); }
};

// A matrix as the product reads it, quantised: with its inner dimension along the rows.
template <class T>
void quantize_operand(const KernelArgs& args, const View& from, Fp8Role role, bool turned, const Operands& operands,
                      std::uint8_t* to) {
  quantize_fp8<T>(stream_of(args), from.as<const T>(), from.spec.rows(), from.spec.last(), role,
                  turned ? Fp8Order::Turned : Fp8Order::Same, args.v<Fp8Scaling>(LinearFp8::kScaling), args.inputs, to,
                  operands.inverses);
}

// C [m, n] (+)= A [m, k] · B [n, k]ᵀ, the one order of operands that Hopper's tensor cores take in fp8.
struct Side {
  const std::uint8_t* codes;
  Fp8Role role;
};
Product product_of(std::int64_t m, std::int64_t n, std::int64_t k, const Side& a, const Side& b,
                   const Operands& operands, const View& c, bool accumulate) {
  const auto format = [](Fp8Role role) { return role == Fp8Role::Gradient ? DType::f8e5m2 : DType::f8e4m3; };
  Product p{.trans_b = true, .m = m, .n = n, .k = k};
  p.a = a.codes;
  p.b = b.codes;
  p.lda = p.ldb = k;
  p.in = format(a.role);
  p.in_b = format(b.role);
  p.scale_a = operands.inverse(a.role);
  p.scale_b = operands.inverse(b.role);
  p.c = c.data;
  p.ldc = n;
  p.out = c.spec.dtype;
  p.accumulate = accumulate;
  return p;
}

template <class T, bool epilogues>
void linear_forward(const KernelArgs& args) {
  const auto& a = args.attrs<LinearFp8>();
  const View &x8 = args.value[LinearFp8::kX8], &weight = args.value[LinearFp8::kWeight], &y = args.value[LinearFp8::kY];
  const Operands operands(args, 0, weight.spec.elements());
  quantize_operand<T>(args, weight, Fp8Role::Weight, a.weight_in_out, operands, operands.second);
  Product p = product_of(x8.spec.rows(), y.spec.last(), x8.spec.last(), {x8.as<std::uint8_t>(), Fp8Role::Input},
                         {operands.second, Fp8Role::Weight}, operands, y, false);
  T* bias = args.v<T>(LinearFp8::kBias);
  // Beside fp8 operands the library takes a bias of 16 bits.
  p.epilogue = epilogues && bias != nullptr && sizeof(T) == 2 ? Epilogue::Bias : Epilogue::None;
  p.vector = bias;
  if (p.epilogue == Epilogue::Bias && try_multiply(stream_of(args), operands.library, p)) return;
  p.epilogue = Epilogue::None;
  multiply(stream_of(args), operands.library, p);
  if (bias != nullptr) add_rows<T>(stream_of(args), y.as<T>(), bias, false, args.inputs, 0, y.as<T>(), p.m, p.m, p.n);
}

// dx = dy · W
template <class T>
void linear_input_grad(const KernelArgs& args) {
  if (without_gradient<LinearFp8>(args, LinearFp8::kY) || !args.grad[LinearFp8::kX]) return;
  const auto& a = args.attrs<LinearFp8>();
  const View &dy = args.grad[LinearFp8::kY], &weight = args.value[LinearFp8::kWeight], &dx = args.grad[LinearFp8::kX];
  const Operands operands(args, dy.spec.elements(), weight.spec.elements());
  quantize_operand<T>(args, dy, Fp8Role::Gradient, false, operands, operands.first);
  quantize_operand<T>(args, weight, Fp8Role::Weight, !a.weight_in_out, operands, operands.second);
  multiply(stream_of(args), operands.library,
           product_of(dy.spec.rows(), dx.spec.last(), dy.spec.last(), {operands.first, Fp8Role::Gradient},
                      {operands.second, Fp8Role::Weight}, operands, dx, args.accumulates(LinearFp8::kX)));
}

// dW [out, in] = dyᵀ · x, or [in, out] = xᵀ · dy, in float.
template <class T>
void linear_weight_grad(const KernelArgs& args) {
  if (without_gradient<LinearFp8>(args, LinearFp8::kY)) return;
  const auto& a = args.attrs<LinearFp8>();
  const View &dy = args.grad[LinearFp8::kY], &x8 = args.value[LinearFp8::kX8], &dw = args.grad[LinearFp8::kWeight];
  const std::int64_t rows = x8.spec.rows(), in = x8.spec.last(), out = dy.spec.last();
  if (dw) {
    const Operands operands(args, rows * out, rows * in);
    quantize_operand<T>(args, dy, Fp8Role::Gradient, true, operands, operands.first);
    turn_codes(stream_of(args), x8.as<const std::uint8_t>(), rows, in, operands.second);
    const Side gradient{operands.first, Fp8Role::Gradient}, input{operands.second, Fp8Role::Input};
    const bool add = args.accumulates(LinearFp8::kWeight);
    multiply(stream_of(args), operands.library,
             a.weight_in_out ? product_of(in, out, rows, input, gradient, operands, dw, add)
                             : product_of(out, in, rows, gradient, input, operands, dw, add));
  }
  if (auto* bias = args.g<float>(LinearFp8::kBias); bias != nullptr)
    column_sums(stream_of(args), dy.as<const T>(), rows, out, bias, args.accumulates(LinearFp8::kBias));
}

void update_scales(const KernelArgs& args) {
  update_fp8_scales(stream_of(args), args.v<Fp8Scaling>(UpdateFp8Scales::kScaling),
                    args.v<float>(UpdateFp8Scales::kHistory), args.value[UpdateFp8Scales::kScaling].spec.shape[0]);
}

}  // namespace

void add_cuda_fp8_kernels(KernelTable& table, bool epilogues) {
  for_each_type([&]<class T>(T) {
    table.add<QuantizeFp8>(Phase::Forward, dtype_of<T>(), quantize_input<T>);
    table.add<LinearFp8>(Phase::Forward, dtype_of<T>(), epilogues ? linear_forward<T, true> : linear_forward<T, false>);
    table.add<LinearFp8>(Phase::InputGrad, dtype_of<T>(), linear_input_grad<T>);
    table.add<LinearFp8>(Phase::WeightGrad, dtype_of<T>(), linear_weight_grad<T>);
  });
  table.add<UpdateFp8Scales>(Phase::Update, DType::f32, update_scales);
}

}  // namespace plimsoll
