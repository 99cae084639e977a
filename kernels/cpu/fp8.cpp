#include "kernels/cpu/fp8.hpp"

#include <cmath>

#include "kernels/cpu/column_sums.hpp"
#include "kernels/cpu/product.hpp"
#include "kernels/cpu/register.hpp"

namespace plimsoll {
namespace {

// store(i, v): v what fp8 has for from[i] · scale. Returns the largest |from[i]|, without NaNs.
template <Fp8Role role, class T, class Store>
float quantize(int threads, float scale, const T* from, std::int64_t n, const Store& store) {
  const auto range = [=](std::int64_t begin, std::int64_t end) {
    float most = 0;
#pragma omp simd reduction(max : most)
    for (std::int64_t i = begin; i < end; ++i) {
      const auto x = static_cast<float>(widen(from[i]));
      const float magnitude = std::fabs(x);
      most = magnitude > most ? magnitude : most;
      store(i, round_to_fp8<role>(x * scale));
    }
    return most;
  };
  if (threads <= 1 || n < kSerialElements) return range(0, n);
  const std::int64_t blocks = (n + kBlockElements - 1) / kBlockElements;
  float most = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(max : most)
  for (std::int64_t b = 0; b < blocks; ++b)
    most = std::max(most, range(b * kBlockElements, std::min(n, (b + 1) * kBlockElements)));
  return most;
}

// One tensor of a linear: its scale, and where its largest magnitude is left.
struct Scaled {
  Fp8Scaling& scaling;
  Fp8Role role;
  float scale;
  Scaled(const KernelArgs& args, int slot, Fp8Role of)
      : scaling(*args.v<Fp8Scaling>(slot)), role(of), scale(fp8_scale(scaling, of, *args.inputs)) {}
  float inverse() const { return 1.0F / scale; }
  void saw(float most) const {
    float& amax = scaling.amax[static_cast<int>(role)];
    amax = std::max(amax, most);
  }
};

template <class T>
void quantize_fp8(const KernelArgs& args) {
  const Scaled x(args, QuantizeFp8::kScaling, Fp8Role::Input);
  auto* y = args.v<F8E4M3>(QuantizeFp8::kY);
  x.saw(quantize<Fp8Role::Input>(args.threads, x.scale, args.v<T>(QuantizeFp8::kX),
                                 args.value[QuantizeFp8::kX].spec.elements(),
                                 [=](std::int64_t i, float v) { y[i] = e4m3_code(v); }));
}

// One operand of a product in the workspace. In 16 bits it is what fp8 has for the tensor, which they hold exactly, and
// `factor` takes the scale off the sums. Products in f32 and f64 add to C themselves and take no factor: there the
// scale is taken off the operand.
template <class T>
struct Operand {
  const T* data;
  float factor;
};

template <class T>
Wide<T> unscale(float inverse) {
  return kIsHalf<T> ? Wide<T>(1) : Wide<T>(inverse);
}

template <Fp8Role role, class T>
Operand<T> make_operand(const KernelArgs& args, const T* from, std::int64_t n, std::byte* workspace) {
  const Scaled tensor(args, LinearFp8::kScaling, role);
  T* to = reinterpret_cast<T*>(workspace);
  const Wide<T> by = unscale<T>(tensor.inverse());
  tensor.saw(quantize<role>(args.threads, tensor.scale, from, n,
                            [=](std::int64_t i, float v) { to[i] = convert<T>(static_cast<Wide<T>>(v) * by); }));
  return {to, tensor.inverse()};
}

template <class T>
Operand<T> read_codes(const KernelArgs& args, const View& codes, std::byte* workspace) {
  const Scaled tensor(args, LinearFp8::kScaling, Fp8Role::Input);
  T* to = reinterpret_cast<T*>(workspace);
  const auto* from = codes.as<F8E4M3>();
  const Wide<T> by = unscale<T>(tensor.inverse());
  parallel_elements(args.threads, codes.spec.elements(), [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) to[i] = convert<T>(static_cast<Wide<T>>(e4m3_number(from[i])) * by);
  });
  return {to, tensor.inverse()};
}

// C [m, n] (+)= op(A) · op(B), then + a row of `bias` each: summed in the wide type, rounded once where it is stored.
template <class T, class C>
void scaled_product(const GemmOperands<T>& operands, float factor, bool add, C* c, const T* bias = nullptr) {
  const std::int64_t n = operands.n;
  const auto finish = [=](const GemmBlock& block, const Wide<T>* sums, std::int64_t stride, Wide<T> by, bool adds) {
    const T* row = bias == nullptr ? nullptr : bias + block.column;
    for (std::int64_t i = block.row; i < block.row_end; ++i, sums += stride) {
      const Wide<T>* from = sums;
      C* to = c + i * n + block.column;
      store_range(to, adds, 0, block.column_end - block.column,
                  [=](std::int64_t j) { return from[j] * by + (row == nullptr ? Wide<T>(0) : widen(row[j])); });
    }
  };
  if constexpr (kIsHalf<T>) {
    const auto take = [=](const GemmBlock& block, const float* sums, std::int64_t stride) {
      finish(block, sums, stride, factor, add);
    };
    half_gemm<T>(operands, SumsReader(take));
  } else {
    const auto add_bias = [=](const GemmBlock& block) {
      finish(block, c + block.row * n + block.column, n, Wide<T>(1), false);
    };
    gemm<T>(operands.trans_a, operands.trans_b, operands.m, n, operands.k, operands.a, operands.lda, operands.b,
            operands.ldb, add ? T(1) : T(0), c, n, bias == nullptr ? GemmEpilogue() : GemmEpilogue(add_bias));
  }
}

template <class T>
void linear_forward(const KernelArgs& args) {
  const auto& a = args.attrs<LinearFp8>();
  const View &x8 = args.value[LinearFp8::kX8], &w = args.value[LinearFp8::kWeight];
  const std::int64_t rows = x8.spec.rows(), in = x8.spec.last(), out = args.value[LinearFp8::kY].spec.last();
  const Operand<T> x = read_codes<T>(args, x8, args.workspace);
  const Operand<T> weight = make_operand<Fp8Role::Weight>(args, w.as<T>(), w.spec.elements(),
                                                          args.workspace + fp8_operand_bytes(rows * in, sizeof(T)));
  scaled_product<T>({false, !a.weight_in_out, rows, out, in, x.data, in, weight.data, a.weight_in_out ? out : in},
                    x.factor * weight.factor, false, args.v<T>(LinearFp8::kY), args.v<T>(LinearFp8::kBias));
}

template <class T>
Operand<T> gradient_operand(const KernelArgs& args) {
  const View& dy = args.grad[LinearFp8::kY];
  return make_operand<Fp8Role::Gradient>(args, dy.as<T>(), dy.spec.elements(), args.workspace);
}

// dx = dy · W
template <class T>
void linear_input_grad(const KernelArgs& args) {
  if (without_gradient<LinearFp8>(args, LinearFp8::kY) || !args.grad[LinearFp8::kX]) return;
  const auto& a = args.attrs<LinearFp8>();
  const View &dy = args.grad[LinearFp8::kY], &w = args.value[LinearFp8::kWeight];
  const std::int64_t rows = dy.spec.rows(), out = dy.spec.last(), in = w.spec.shape[a.weight_in_out ? 0 : 1];
  const Operand<T> gradient = gradient_operand<T>(args);
  const Operand<T> weight = make_operand<Fp8Role::Weight>(args, w.as<T>(), w.spec.elements(),
                                                          args.workspace + fp8_operand_bytes(rows * out, sizeof(T)));
  scaled_product<T>(
      {false, a.weight_in_out, rows, in, out, gradient.data, out, weight.data, a.weight_in_out ? out : in},
      gradient.factor * weight.factor, args.accumulates(LinearFp8::kX), args.g<T>(LinearFp8::kX));
}

// dW [out, in] = dyᵀ · x, or [in, out] = xᵀ · dy.
template <class T>
void linear_weight_grad(const KernelArgs& args) {
  if (without_gradient<LinearFp8>(args, LinearFp8::kY)) return;
  const auto& a = args.attrs<LinearFp8>();
  const View &dy = args.grad[LinearFp8::kY], &x8 = args.value[LinearFp8::kX8];
  const std::int64_t rows = x8.spec.rows(), in = x8.spec.last(), out = dy.spec.last();
  if (auto* dw = args.g<Wide<T>>(LinearFp8::kWeight); dw != nullptr) {
    const Operand<T> gradient = gradient_operand<T>(args);
    const Operand<T> x = read_codes<T>(args, x8, args.workspace + fp8_operand_bytes(rows * out, sizeof(T)));
    const bool add = args.accumulates(LinearFp8::kWeight);
    const float factor = x.factor * gradient.factor;
    if (a.weight_in_out) {
      scaled_product<T>({true, false, in, out, rows, x.data, in, gradient.data, out}, factor, add, dw);
    } else {
      scaled_product<T>({true, false, out, in, rows, gradient.data, out, x.data, in}, factor, add, dw);
    }
  }
  if (auto* db = args.g<Wide<T>>(LinearFp8::kBias); db != nullptr)
    sum_columns(args, rows, out, dy.as<T>(), args.accumulates(LinearFp8::kBias), db);
}

void update_scales(const KernelArgs& args) {
  auto* scaling = args.v<Fp8Scaling>(UpdateFp8Scales::kScaling);
  auto* history = args.v<float>(UpdateFp8Scales::kHistory);
  const std::int64_t linears = args.value[UpdateFp8Scales::kScaling].spec.shape[0];
  for (std::int64_t i = 0; i < linears * kFp8Roles; ++i) {
    advance_fp8_scale(scaling[i / kFp8Roles], static_cast<Fp8Role>(i % kFp8Roles), history + i * kFp8History);
  }
}

template <class T>
void add_for_type(KernelTable& table) {
  table.add<QuantizeFp8>(Phase::Forward, dtype_of<T>(), quantize_fp8<T>);
  table.add<LinearFp8>(Phase::Forward, dtype_of<T>(), linear_forward<T>);
  table.add<LinearFp8>(Phase::InputGrad, dtype_of<T>(), linear_input_grad<T>);
  table.add<LinearFp8>(Phase::WeightGrad, dtype_of<T>(), linear_weight_grad<T>);
}

}  // namespace

void add_fp8_kernels(KernelTable& table) {
  add_for_type<float>(table);
  add_for_type<double>(table);
  add_for_type<bf16>(table);
  add_for_type<f16>(table);
  table.add<UpdateFp8Scales>(Phase::Update, DType::f32, update_scales);
}

}  // namespace plimsoll
