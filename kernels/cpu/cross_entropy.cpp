#include <omp.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/attention_tile.hpp"
#include "kernels/cpu/gemm.hpp"
#include "kernels/cpu/register.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kSumColumns = 1024;  // columns summed in T before the sum goes on in double

// A row of logits, padded so that whole vectors may be read and written.
template <class T>
struct LogitRow {
  T* logits;
  std::int64_t vocabulary, padded;
};

// Replaces logits by exp(logit - max); returns their sum, and the maximum in `top`.
template <class T>
double exponentials(const LogitRow<T>& row, T& top) {
  using V = tile::Vector<T>;
  constexpr std::int64_t kLanes = tile::kLanes<T>;
  std::fill(row.logits + row.vocabulary, row.logits + row.padded, -std::numeric_limits<T>::max() / 4);
  V peak = tile::at(row.logits);
  for (std::int64_t j = kLanes; j < row.padded; j += kLanes) {
    const V x = tile::at(row.logits + j);
    peak = x > peak ? x : peak;
  }
  top = peak[0];
  for (std::int64_t i = 1; i < kLanes; ++i) top = std::max<T>(top, peak[i]);
  double total = 0;
  for (std::int64_t first = 0; first < row.padded; first += kSumColumns) {
    V sum{};
    for (std::int64_t j = first; j < std::min(row.padded, first + kSumColumns); j += kLanes) {
      V& x = tile::at(row.logits + j);
      x = tile::exp_nonpositive(x - top);
      sum += x;
    }
    for (std::int64_t i = 0; i < kLanes; ++i) total += static_cast<double>(sum[i]);
  }
  return total;
}

// The loss of a row. With `gradient`, its logits become (softmax - onehot) · seed.
template <class T>
double row_loss(const LogitRow<T>& row, std::int32_t target, bool gradient, double seed) {
  if (target < 0) {
    if (gradient) std::fill_n(row.logits, row.padded, T(0));
    return 0;
  }
  const auto of_target = static_cast<double>(row.logits[target]);
  T top = 0;
  const double sum = exponentials(row, top);
  if (gradient) {
    const T factor = static_cast<T>(seed / sum);
    for (std::int64_t j = 0; j < row.padded; j += tile::kLanes<T>) tile::at(row.logits + j) *= factor;
    row.logits[target] -= static_cast<T>(seed);
  }
  return std::log(sum) + static_cast<double>(top) - of_target;
}

template <class T>
struct Loss {
  explicit Loss(const KernelArgs& a)
      : args(a),
        rows(a.value[CrossEntropy::kX].spec.rows()),
        hidden(a.value[CrossEntropy::kX].spec.last()),
        vocabulary(a.value[CrossEntropy::kWeight].spec.shape[0]),
        chunk(a.attrs<CrossEntropy>().rows_per_chunk(rows)) {
    constexpr std::int64_t kAlign = 64 / std::int64_t{sizeof(T)};
    padded = (vocabulary + kAlign - 1) / kAlign * kAlign;
    logits = reinterpret_cast<T*>(a.workspace);
    losses = reinterpret_cast<double*>(logits + chunk * padded);
  }

  // Fills `losses` of rows [first, first + count) and leaves their logits, or the gradient of those.
  void softmax_chunk(std::int64_t first, std::int64_t count, bool gradient) const {
    const T *x = args.v<T>(CrossEntropy::kX) + first * hidden, *weight = args.v<T>(CrossEntropy::kWeight);
    const auto* targets = args.v<std::int32_t>(CrossEntropy::kTargets) + first;
    const double seed = gradient ? args.inputs->loss_seed : 0;
    gemm<T>(false, true, count, vocabulary, hidden, x, hidden, weight, hidden, T(0), logits, padded);
#pragma omp parallel for schedule(static) num_threads(args.threads)
    for (std::int64_t i = 0; i < count; ++i) {
      losses[i] = row_loss(LogitRow<T>{logits + i * padded, vocabulary, padded}, targets[i], gradient, seed);
    }
  }

  // dx of the chunk's rows, and its share of dW.
  void products(std::int64_t first, std::int64_t count) const {
    const T *x = args.v<T>(CrossEntropy::kX) + first * hidden, *weight = args.v<T>(CrossEntropy::kWeight);
    if (T* dx = args.g<T>(CrossEntropy::kX); dx != nullptr) {
      const T beta = args.accumulates(CrossEntropy::kX) ? T(1) : T(0);
      gemm<T>(false, false, count, hidden, vocabulary, logits, padded, weight, hidden, beta, dx + first * hidden,
              hidden);
    }
    if (T* dw = args.g<T>(CrossEntropy::kWeight); dw != nullptr) {
      const T beta = first > 0 || args.accumulates(CrossEntropy::kWeight) ? T(1) : T(0);
      gemm<T>(true, false, vocabulary, hidden, count, logits, padded, x, hidden, beta, dw, hidden);
    }
  }

  const KernelArgs& args;
  std::int64_t rows, hidden, vocabulary, chunk, padded = 0;
  T* logits = nullptr;
  double* losses = nullptr;
};

template <class T>
void cross_entropy(const KernelArgs& args, bool gradient) {
  const Loss<T> loss(args);
  const auto* targets = args.v<std::int32_t>(CrossEntropy::kTargets);
  double sum = 0, valid = 0;  // row by row in order, so that chunks do not change the bits
  for (std::int64_t first = 0; first < loss.rows; first += loss.chunk) {
    const std::int64_t count = std::min(loss.chunk, loss.rows - first);
    loss.softmax_chunk(first, count, gradient);
    for (std::int64_t i = 0; i < count; ++i) {
      sum += loss.losses[i];
      valid += targets[first + i] >= 0 ? 1 : 0;
    }
    if (gradient) loss.products(first, count);
  }
  auto* out = args.v<double>(CrossEntropy::kLoss);
  if (out == nullptr) return;
  const bool add = args.accumulates(CrossEntropy::kLoss);
  out[0] = add ? out[0] + sum : sum;
  out[1] = add ? out[1] + valid : valid;
}

template <class T>
void cross_entropy_forward(const KernelArgs& args) {
  cross_entropy<T>(args, false);
}
template <class T>
void cross_entropy_backward(const KernelArgs& args) {
  cross_entropy<T>(args, true);
}

}  // namespace

void add_cross_entropy_kernels(KernelTable& table) {
  table.add<CrossEntropy>(Phase::Forward, DType::f32, cross_entropy_forward<float>);
  table.add<CrossEntropy>(Phase::Forward, DType::f64, cross_entropy_forward<double>);
  table.add<CrossEntropy>(Phase::InputGrad, DType::f32, cross_entropy_backward<float>);
  table.add<CrossEntropy>(Phase::InputGrad, DType::f64, cross_entropy_backward<double>);
}

}  // namespace plimsoll
