#include "kernels/cpu/activation.hpp"
#include "kernels/cpu/column_sums.hpp"
#include "kernels/cpu/parallel.hpp"
#include "kernels/cpu/product.hpp"
#include "kernels/cpu/register.hpp"

namespace plimsoll {
namespace {

// On rows of a block of the product: pre = sums + bias; then y = act(pre). y is pre where that is not kept.
template <class T>
void finish_block(const GemmBlock& block, std::int64_t out, const Wide<T>* sums, std::int64_t stride, const T* bias,
                  Activation kind, T* pre, T* y) {
  const std::int64_t columns = block.column_end - block.column;
  with_activation(kind, [&](auto activation) {
    for (std::int64_t i = block.row; i < block.row_end; ++i, sums += stride) {
      T* row = pre + i * out + block.column;
      if (bias != nullptr) {
        const T* from = bias + block.column;
        store_range(row, false, 0, columns, [=](std::int64_t j) { return sums[j] + widen(from[j]); });
      } else if constexpr (kIsHalf<T>) {
        store_range(row, false, 0, columns, [=](std::int64_t j) { return sums[j]; });
      }
      if constexpr (activation != Activation::None) {
        activate_range<activation>(row, y + i * out + block.column, columns);
      }
    }
  });
}

template <class T>
void linear_forward(const KernelArgs& args) {
  const auto& a = args.attrs<Linear>();
  const TensorSpec &x = args.value[Linear::kX].spec, &y = args.value[Linear::kY].spec;
  const std::int64_t rows = x.rows(), in = x.last(), out = y.last(), ldw = a.weight_in_out ? out : in;
  T *result = args.v<T>(Linear::kY), *pre = args.v<T>(Linear::kPre);
  if (pre == nullptr) pre = result;
  const T *bias = args.v<T>(Linear::kBias), *input = args.v<T>(Linear::kX), *weight = args.v<T>(Linear::kWeight);
  if constexpr (kIsHalf<T>) {
    const auto finish = [&](const GemmBlock& block, const float* sums, std::int64_t stride) {
      finish_block(block, out, sums, stride, bias, a.activation, pre, result);
    };
    half_gemm<T>({false, !a.weight_in_out, rows, out, in, input, in, weight, ldw}, SumsReader(finish));
  } else {
    const auto finish = [&](const GemmBlock& block) {
      finish_block(block, out, pre + block.row * out + block.column, out, bias, a.activation, pre, result);
    };
    const bool plain = bias == nullptr && a.activation == Activation::None;
    gemm<T>(false, !a.weight_in_out, rows, out, in, input, in, weight, ldw, T(0), pre, out,
            plain ? GemmEpilogue() : GemmEpilogue(finish));
  }
}

// dx = dpre · W, with dpre = dy · act'(pre) left for WeightGrad.
template <class T>
void linear_input_grad(const KernelArgs& args) {
  const auto& a = args.attrs<Linear>();
  const TensorSpec &y = args.grad[Linear::kY].spec, &weight = args.value[Linear::kWeight].spec;
  const std::int64_t rows = y.rows(), out = y.last(), in = weight.shape[a.weight_in_out ? 0 : 1];
  if (without_gradient<Linear>(args, Linear::kY)) {
    if (T* dpre = args.g<T>(Linear::kPre); dpre != nullptr) parallel_zero(args.threads, dpre, rows * out);
    return;
  }
  const T* dy = args.g<T>(Linear::kY);
  if (a.activation != Activation::None) {
    T* dpre = args.g<T>(Linear::kPre);
    const T* pre = args.v<T>(Linear::kPre);
    with_activation(a.activation, [&](auto activation) {
      parallel_elements(args.threads, rows * out, [=](std::int64_t begin, std::int64_t end) {
        activate_range_backward<activation>(pre + begin, dy + begin, dpre + begin, end - begin);
      });
    });
    dy = dpre;
  }
  if (T* dx = args.g<T>(Linear::kX); dx != nullptr) {
    product(false, a.weight_in_out, rows, in, out, dy, out, args.v<T>(Linear::kWeight), a.weight_in_out ? out : in,
            args.accumulates(Linear::kX), dx, in);
  }
}

template <class T>
void linear_weight_grad(const KernelArgs& args) {
  const auto& a = args.attrs<Linear>();
  const int from = a.activation == Activation::None ? Linear::kY : Linear::kPre;
  if (without_gradient<Linear>(args, from)) return;
  const View& gradient = args.grad[from];
  const TensorSpec& x = args.value[Linear::kX].spec;
  const std::int64_t rows = x.rows(), in = x.last(), out = gradient.spec.last();
  const T *dy = gradient.as<T>(), *input = args.v<T>(Linear::kX);
  if (auto* dw = args.g<Wide<T>>(Linear::kWeight); dw != nullptr) {
    const bool add = args.accumulates(Linear::kWeight);
    if (a.weight_in_out) {
      product(true, false, in, out, rows, input, in, dy, out, add, dw, out);
    } else {
      product(true, false, out, in, rows, dy, out, input, in, add, dw, in);
    }
  }
  if (auto* db = args.g<Wide<T>>(Linear::kBias); db != nullptr) {
    sum_columns(args, rows, out, dy, args.accumulates(Linear::kBias), db);
  }
}

template <class T>
void add_for_type(KernelTable& table) {
  table.add<Linear>(Phase::Forward, dtype_of<T>(), linear_forward<T>);
  table.add<Linear>(Phase::InputGrad, dtype_of<T>(), linear_input_grad<T>);
  table.add<Linear>(Phase::WeightGrad, dtype_of<T>(), linear_weight_grad<T>);
}

}  // namespace

void add_linear_kernels(KernelTable& table) {
  add_for_type<float>(table);
  add_for_type<double>(table);
  add_for_type<bf16>(table);
  add_for_type<f16>(table);
}

}  // namespace plimsoll
