#include <omp.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/gemm.hpp"
#include "kernels/cpu/register.hpp"
#include "kernels/cpu/simd.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kSumColumns = 1024;  // columns summed in T before the sum goes on in double

// A row of logits, padded so that whole vectors may be read and written.
template <class T>
struct LogitRow {
  T* logits;
  std::int64_t vocabulary, padded;
};

// The largest logit; the padding gets one that counts nowhere.
template <class T>
T maximum(const LogitRow<T>& row) {
  using V = simd::Vector<T>;
  constexpr std::int64_t kLanes = simd::kLanes<T>;
  std::fill(row.logits + row.vocabulary, row.logits + row.padded, -std::numeric_limits<T>::max() / 4);
  V peak = simd::at(row.logits);
  for (std::int64_t j = kLanes; j < row.padded; j += kLanes) {
    const V x = simd::at(row.logits + j);
    peak = x > peak ? x : peak;
  }
  T top = peak[0];
  for (std::int64_t i = 1; i < kLanes; ++i) top = std::max<T>(top, peak[i]);
  return top;
}

// Replaces logits by exp(logit - top); returns their sum.
template <class T>
double exponentials(const LogitRow<T>& row, T top) {
  using V = simd::Vector<T>;
  constexpr std::int64_t kLanes = simd::kLanes<T>;
  double total = 0;
  for (std::int64_t first = 0; first < row.padded; first += kSumColumns) {
    V sum{};
    for (std::int64_t j = first; j < std::min(row.padded, first + kSumColumns); j += kLanes) {
      V& x = simd::at(row.logits + j);
      x = simd::exp_nonpositive(x - top);
      sum += x;
    }
    for (std::int64_t i = 0; i < kLanes; ++i) total += static_cast<double>(sum[i]);
  }
  return total;
}

template <class T>
void scale_row(const LogitRow<T>& row, T factor) {
  for (std::int64_t j = 0; j < row.padded; j += simd::kLanes<T>) simd::at(row.logits + j) *= factor;
}

// The loss of a row. With `gradient`, its logits become (softmax - onehot) · seed.
template <class T>
double row_loss(const LogitRow<T>& row, std::int32_t target, bool gradient, double seed) {
  if (target < 0) {
    if (gradient) std::fill_n(row.logits, row.padded, T(0));
    return 0;
  }
  const auto of_target = static_cast<double>(row.logits[target]);
  const T top = maximum(row);
  const double sum = exponentials(row, top);
  if (gradient) {
    scale_row(row, static_cast<T>(seed / sum));
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
    const auto& attrs = a.attrs<CrossEntropy>();
    logits = reinterpret_cast<T*>(a.workspace + CrossEntropy::reduction_bytes(attrs, chunk));
    losses = reinterpret_cast<double*>(logits + chunk * padded);
    if (attrs.ranks == 1) return;
    sums = losses;
    maxima = sums + 2 * chunk;
    losses = maxima + chunk;
  }

  // Fills `losses` of rows [first, first + count) and leaves their logits, or the gradient of those.
  void softmax_chunk(std::int64_t first, std::int64_t count, bool gradient) const {
    const T *x = args.v<T>(CrossEntropy::kX) + first * hidden, *weight = args.v<T>(CrossEntropy::kWeight);
    const auto* targets = args.v<std::int32_t>(CrossEntropy::kTargets) + first;
    const double seed = gradient ? args.inputs->loss_seed : 0;
    gemm<T>(false, true, count, vocabulary, hidden, x, hidden, weight, hidden, T(0), logits, padded);
    if (sums != nullptr) return softmax_over_ranks(targets, count, gradient, seed);
#pragma omp parallel for schedule(static) num_threads(args.threads)
    for (std::int64_t i = 0; i < count; ++i) {
      losses[i] = row_loss(LogitRow<T>{logits + i * padded, vocabulary, padded}, targets[i], gradient, seed);
    }
  }

  // The same where each rank has the logits of a part of the vocabulary: rows agree on their maximum, then on their sum
  // and the logit of their target.
  void softmax_over_ranks(const std::int32_t* targets, std::int64_t count, bool gradient, double seed) const {
    const auto& attrs = args.attrs<CrossEntropy>();
    const std::int64_t first = attrs.first_row, here = attrs.valid_rows;
    const auto row_at = [&](std::int64_t i) { return LogitRow<T>{logits + i * padded, here, padded}; };
    const auto mine = [&](std::int32_t target) { return target >= first && target < first + here; };
#pragma omp parallel for schedule(static) num_threads(args.threads)
    for (std::int64_t i = 0; i < count; ++i) {
      sums[2 * i + 1] = mine(targets[i]) ? static_cast<double>(row_at(i).logits[targets[i] - first]) : 0;
      maxima[i] = static_cast<double>(maximum(row_at(i)));
    }
    args.group->all_reduce({maxima, {{count}, DType::f64}}, ReduceOp::Max, args.workspace, args.label);
#pragma omp parallel for schedule(static) num_threads(args.threads)
    for (std::int64_t i = 0; i < count; ++i) sums[2 * i] = exponentials(row_at(i), static_cast<T>(maxima[i]));
    args.group->all_reduce({sums, {{2 * count}, DType::f64}}, ReduceOp::Sum, args.workspace, args.label);
#pragma omp parallel for schedule(static) num_threads(args.threads)
    for (std::int64_t i = 0; i < count; ++i) {
      const bool counts = targets[i] >= 0;
      losses[i] = counts ? std::log(sums[2 * i]) + maxima[i] - sums[2 * i + 1] : 0;
      if (!gradient) continue;
      scale_row(row_at(i), counts ? static_cast<T>(seed / sums[2 * i]) : T(0));
      if (counts && mine(targets[i])) row_at(i).logits[targets[i] - first] -= static_cast<T>(seed);
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
  double *losses = nullptr, *sums = nullptr, *maxima = nullptr;  // the latter where the vocabulary is split over ranks
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
