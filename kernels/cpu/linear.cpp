#include <algorithm>

#include "kernels/cpu/activation.hpp"
#include "kernels/cpu/gemm.hpp"
#include "kernels/cpu/parallel.hpp"
#include "kernels/cpu/register.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kColumns = 64;  // columns that a thread sums at a time
constexpr std::int64_t kSumRows = 32;  // rows of a partial sum

// On a block of the product: pre += bias on every row; then y = act(pre). y is pre where that is not kept.
template <class T>
void finish_block(const GemmBlock& block, std::int64_t out, const T* bias, Activation kind, T* pre, T* y) {
  const std::int64_t columns = block.column_end - block.column;
  with_activation(kind, [&](auto activation) {
    for (std::int64_t i = block.row; i < block.row_end; ++i) {
      T* row = pre + i * out + block.column;
      if (bias != nullptr) {
        const T* from = bias + block.column;
#pragma omp simd
        for (std::int64_t j = 0; j < columns; ++j) row[j] += from[j];
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
  const std::int64_t rows = x.rows(), in = x.last(), out = y.last();
  T *result = args.v<T>(Linear::kY), *pre = args.v<T>(Linear::kPre);
  if (pre == nullptr) pre = result;
  const T* bias = args.v<T>(Linear::kBias);
  const auto finish = [&](const GemmBlock& block) { finish_block(block, out, bias, a.activation, pre, result); };
  const bool plain = bias == nullptr && a.activation == Activation::None;
  gemm<T>(false, !a.weight_in_out, rows, out, in, args.v<T>(Linear::kX), in, args.v<T>(Linear::kWeight),
          a.weight_in_out ? out : in, T(0), pre, out, plain ? GemmEpilogue() : GemmEpilogue(finish));
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
    gemm<T>(false, a.weight_in_out, rows, in, out, dy, out, args.v<T>(Linear::kWeight), a.weight_in_out ? out : in,
            args.accumulates(Linear::kX) ? T(1) : T(0), dx, in);
  }
}

// to[j] (+)= Σ_i from[i, j], i ascending in partial sums of kSumRows: the same bits for any number of threads.
template <class T>
void sum_columns(const KernelArgs& args, std::int64_t rows, std::int64_t n, const T* from, bool add, T* to) {
  parallel_blocks(args.threads, (n + kColumns - 1) / kColumns, rows * n, [=](std::int64_t block_of_columns) {
    const std::int64_t first = block_of_columns * kColumns;
    const std::int64_t count = std::min(kColumns, n - first);
    T total[kColumns] = {};
    for (std::int64_t block = 0; block < rows; block += kSumRows) {
      T partial[kColumns] = {};
      for (std::int64_t i = block; i < std::min(rows, block + kSumRows); ++i) {
        for (std::int64_t j = 0; j < count; ++j) partial[j] += from[i * n + first + j];
      }
      for (std::int64_t j = 0; j < count; ++j) total[j] += partial[j];
    }
    for (std::int64_t j = 0; j < count; ++j) to[first + j] = add ? to[first + j] + total[j] : total[j];
  });
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
  if (T* dw = args.g<T>(Linear::kWeight); dw != nullptr) {
    const T beta = args.accumulates(Linear::kWeight) ? T(1) : T(0);
    if (a.weight_in_out) {
      gemm<T>(true, false, in, out, rows, input, in, dy, out, beta, dw, out);
    } else {
      gemm<T>(true, false, out, in, rows, dy, out, input, in, beta, dw, in);
    }
  }
  if (T* db = args.g<T>(Linear::kBias); db != nullptr) {
    sum_columns(args, rows, out, dy, args.accumulates(Linear::kBias), db);
  }
}

}  // namespace

void add_linear_kernels(KernelTable& table) {
  table.add<Linear>(Phase::Forward, DType::f32, linear_forward<float>);
  table.add<Linear>(Phase::Forward, DType::f64, linear_forward<double>);
  table.add<Linear>(Phase::InputGrad, DType::f32, linear_input_grad<float>);
  table.add<Linear>(Phase::InputGrad, DType::f64, linear_input_grad<double>);
  table.add<Linear>(Phase::WeightGrad, DType::f32, linear_weight_grad<float>);
  table.add<Linear>(Phase::WeightGrad, DType::f64, linear_weight_grad<double>);
}

}  // namespace plimsoll
