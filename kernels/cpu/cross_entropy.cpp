#include <omp.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/parallel.hpp"
#include "kernels/cpu/product.hpp"
#include "kernels/cpu/register.hpp"
#include "kernels/cpu/simd.hpp"
#include "kernels/loss_workspace.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kSumColumns = 1024;  // columns summed in T before the sum goes on in double

// A row of logits, padded so that whole vectors may be read and written.
template <class T>
struct LogitRow {
  T* logits;
  std::int64_t vocabulary, padded;
};

// What padding holds: a logit that counts nowhere.
template <class T>
T no_logit() {
  if constexpr (std::is_same_v<T, f16>) return convert<f16>(-65504.0F);
  return convert<T>(-std::numeric_limits<Wide<T>>::max() / 4);
}

// Calls f(numbers, first, count) for columns [first, first + count) of a row, where they lie or, of a 16-bit type, in a
// copy to compute with; with `store` they are what f leaves.
template <class T, class F>
void for_spans(const LogitRow<T>& row, bool store, F&& f) {
  for (std::int64_t first = 0; first < row.padded; first += kSumColumns) {
    const std::int64_t count = std::min(kSumColumns, row.padded - first);
    T* logits = row.logits + first;
    if constexpr (kIsHalf<T>) {
      alignas(simd::kVectorBytes) Wide<T> copy[kSumColumns];
      Wide<T>* numbers = copy;
      store_range(numbers, false, 0, count, [=](std::int64_t i) { return widen(logits[i]); });
      f(numbers, first, count);
      if (store) store_range(logits, false, 0, count, [=](std::int64_t i) { return numbers[i]; });
    } else {
      f(logits, first, count);
    }
  }
}

// The largest logit.
template <class T>
Wide<T> maximum(const LogitRow<T>& row) {
  using W = Wide<T>;
  using V = simd::Vector<W>;
  std::fill(row.logits + row.vocabulary, row.logits + row.padded, no_logit<T>());
  V peak = V{} + widen(row.logits[0]);
  for_spans(row, false, [&](const W* numbers, std::int64_t, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j += simd::kLanes<W>) {
      const V x = simd::at(numbers + j);
      peak = x > peak ? x : peak;
    }
  });
  W top = peak[0];
  for (std::int64_t i = 1; i < simd::kLanes<W>; ++i) top = std::max<W>(top, peak[i]);
  return top;
}

// Σ exp(logit - top). In place of the logits stand these exponentials then; but 16-bit logits are left, since they
// would be rounded twice.
template <class T>
double exponentials(const LogitRow<T>& row, Wide<T> top) {
  using W = Wide<T>;
  using V = simd::Vector<W>;
  double total = 0;
  for_spans(row, false, [&](W* numbers, std::int64_t, std::int64_t count) {
    V sum{};
    for (std::int64_t j = 0; j < count; j += simd::kLanes<W>) {
      V& x = simd::at(numbers + j);
      x = simd::exp_nonpositive(x - top);
      sum += x;
    }
    for (std::int64_t i = 0; i < simd::kLanes<W>; ++i) total += static_cast<double>(sum[i]);
  });
  return total;
}

// After exponentials(): factor · exp(logit - top), at the target (-1: not here) less the seed.
template <class T>
void logit_gradient(const LogitRow<T>& row, Wide<T> top, Wide<T> factor, std::int64_t target, Wide<T> seed) {
  using W = Wide<T>;
  for_spans(row, true, [&](W* numbers, std::int64_t first, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j += simd::kLanes<W>) {
      simd::Vector<W>& x = simd::at(numbers + j);
      if constexpr (kIsHalf<T>) x = simd::exp_nonpositive(x - top);
      x *= factor;
    }
    if (target >= first && target < first + count) numbers[target - first] -= seed;
  });
}

// The loss of a row. With `gradient`, its logits become (softmax - onehot) · seed.
template <class T>
double row_loss(const LogitRow<T>& row, std::int32_t target, bool gradient, double seed) {
  using W = Wide<T>;
  if (target < 0) {
    if (gradient) std::fill_n(row.logits, row.padded, convert<T>(W(0)));
    return 0;
  }
  const auto of_target = static_cast<double>(widen(row.logits[target]));
  const W top = maximum(row);
  const double sum = exponentials(row, top);
  if (gradient) logit_gradient(row, top, static_cast<W>(seed / sum), target, static_cast<W>(seed));
  return std::log(sum) + static_cast<double>(top) - of_target;
}

template <class T>
struct Loss : LossWorkspace<T> {
  using W = Wide<T>;
  using Space = LossWorkspace<T>;
  using Space::losses, Space::sums, Space::maxima;
  using Space::rows, Space::hidden, Space::vocabulary, Space::chunk, Space::padded, Space::reduction, Space::logits;
  explicit Loss(const KernelArgs& a) : Space(a), args(a) {}

  // Fills `losses` of rows [first, first + count) and leaves their logits, or the gradient of those.
  void softmax_chunk(std::int64_t first, std::int64_t count, bool gradient) const {
    const T *x = args.v<T>(CrossEntropy::kX) + first * hidden, *weight = args.v<T>(CrossEntropy::kWeight);
    const auto* targets = args.v<std::int32_t>(CrossEntropy::kTargets) + first;
    const double seed = gradient ? args.inputs->loss_seed : 0;
    product(false, true, count, vocabulary, hidden, x, hidden, weight, hidden, false, logits, padded);
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
      sums[2 * i + 1] = mine(targets[i]) ? static_cast<double>(widen(row_at(i).logits[targets[i] - first])) : 0;
      maxima[i] = static_cast<double>(maximum(row_at(i)));
    }
    args.group->all_reduce({maxima, {{count}, DType::f64}}, ReduceOp::Max, reduction, args.site());
#pragma omp parallel for schedule(static) num_threads(args.threads)
    for (std::int64_t i = 0; i < count; ++i) sums[2 * i] = exponentials(row_at(i), static_cast<W>(maxima[i]));
    args.group->all_reduce({sums, {{2 * count}, DType::f64}}, ReduceOp::Sum, reduction, args.site());
#pragma omp parallel for schedule(static) num_threads(args.threads)
    for (std::int64_t i = 0; i < count; ++i) {
      const bool counts = targets[i] >= 0;
      losses[i] = counts ? std::log(sums[2 * i]) + maxima[i] - sums[2 * i + 1] : 0;
      if (!gradient) continue;
      logit_gradient(row_at(i), static_cast<W>(maxima[i]), counts ? static_cast<W>(seed / sums[2 * i]) : W(0),
                     counts && mine(targets[i]) ? targets[i] - first : -1, static_cast<W>(seed));
    }
  }

  // dx of the chunk's rows, and its share of dW.
  void products(std::int64_t first, std::int64_t count) const {
    const T *x = args.v<T>(CrossEntropy::kX) + first * hidden, *weight = args.v<T>(CrossEntropy::kWeight);
    if (T* dx = args.g<T>(CrossEntropy::kX); dx != nullptr) {
      product(false, false, count, hidden, vocabulary, logits, padded, weight, hidden,
              args.accumulates(CrossEntropy::kX), dx + first * hidden, hidden);
    }
    if (W* dw = args.g<W>(CrossEntropy::kWeight); dw != nullptr) {
      const bool add = first > 0 || args.accumulates(CrossEntropy::kWeight);
      product(true, false, vocabulary, hidden, count, logits, padded, x, hidden, add, dw, hidden);
    }
  }

  const KernelArgs& args;
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

template <class T>
void add_for_type(KernelTable& table) {
  table.add<CrossEntropy>(Phase::Forward, dtype_of<T>(), cross_entropy_forward<T>);
  table.add<CrossEntropy>(Phase::InputGrad, dtype_of<T>(), cross_entropy_backward<T>);
}

}  // namespace

void add_cross_entropy_kernels(KernelTable& table) {
  add_for_type<float>(table);
  add_for_type<double>(table);
  add_for_type<bf16>(table);
  add_for_type<f16>(table);
}

}  // namespace plimsoll
