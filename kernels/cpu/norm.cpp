#include "runtime/ops/norm.hpp"

#include <cmath>
#include <cstring>

#include "kernels/cpu/norm_rows.hpp"
#include "kernels/cpu/parallel.hpp"
#include "kernels/cpu/register.hpp"
#include "kernels/norm_slots.hpp"

namespace plimsoll {
namespace {

template <class T>
T* value_or_null(const KernelArgs& args, int slot) {
  return slot < 0 ? nullptr : args.v<T>(slot);
}
template <class T>
T* grad_or_null(const KernelArgs& args, int slot) {
  return slot < 0 ? nullptr : args.g<T>(slot);
}

template <class Op, class T>
void norm_forward(const KernelArgs& args) {
  using W = Wide<T>;
  constexpr NormSlots s = slots_of_norm<Op>();
  constexpr bool kCentered = s.mean >= 0;
  const T *x = args.v<T>(s.x), *residual = value_or_null<T>(args, s.residual);
  const T *weight = args.v<T>(s.weight), *bias = value_or_null<T>(args, s.bias);
  T *sum = value_or_null<T>(args, s.sum), *y = args.v<T>(s.y);
  W *mean = value_or_null<W>(args, s.mean), *rstd = args.v<W>(s.rstd);
  const TensorSpec& spec = args.value[s.x].spec;
  const std::int64_t h = spec.last();
  const double eps = args.attrs<Op>().eps;
  parallel_blocks(args.threads, spec.rows(), spec.elements(), [=](std::int64_t row) {
    const T* from = x + row * h;
    if constexpr (s.residual >= 0) {
      const T* other = residual + row * h;
      store_range(sum + row * h, false, 0, h, [=](std::int64_t i) { return widen(from[i]) + widen(other[i]); });
      from = sum + row * h;
    }
    W center = 0;
    if constexpr (kCentered) mean[row] = center = row_mean(from, h);
    const W scale = rstd[row] = row_rstd(from, h, center, eps);
    T* to = y + row * h;
    const auto normed = [=](std::int64_t i) { return (widen(from[i]) - center) * scale * widen(weight[i]); };
    if (bias != nullptr) {
      store_range(to, false, 0, h, [=](std::int64_t i) { return normed(i) + widen(bias[i]); });
    } else {
      store_range(to, false, 0, h, normed);
    }
  });
}

// The gradient that only passes through (dy is zero): dx = dsum.
template <class Op, class T>
void pass_sum_gradient(const KernelArgs& args, const T* dsum, T* dx) {
  constexpr NormSlots s = slots_of_norm<Op>();
  if (dx != nullptr && dx != dsum) {
    parallel_elements(args.threads, args.grad[s.sum].spec.elements(), [=, &args](std::int64_t begin, std::int64_t end) {
      store_range(dx, args.accumulates(s.x), begin, end, [=](std::int64_t i) { return widen(dsum[i]); });
    });
  }
  for (const int slot : {s.weight, s.bias}) {
    if (slot < 0 || !args.grad[slot] || args.accumulates(slot)) continue;
    parallel_zero(args.threads, args.g<Wide<T>>(slot), args.grad[slot].spec.elements());
  }
}

template <class Op, class T>
void norm_backward(const KernelArgs& args) {
  using W = Wide<T>;
  constexpr NormSlots s = slots_of_norm<Op>();
  constexpr bool kCentered = s.mean >= 0;
  const T *dy = args.g<T>(s.y), *dsum = grad_or_null<T>(args, s.sum);
  T* dx = args.g<T>(s.x);
  W *dweight = args.g<W>(s.weight), *dbias = grad_or_null<W>(args, s.bias);
  if (dy == nullptr) {
    if (dsum != nullptr) return pass_sum_gradient<Op>(args, dsum, dx);
    return static_cast<void>(without_gradient<Op>(args, s.y));
  }
  const T *x = args.v<T>(s.sum >= 0 ? s.sum : s.x), *weight = args.v<T>(s.weight);
  const W *mean = value_or_null<W>(args, s.mean), *rstd = args.v<W>(s.rstd);
  const TensorSpec& spec = args.grad[s.y].spec;
  const std::int64_t rows = spec.rows(), h = spec.last(), blocks = norm_row_blocks(rows);
  W* partials = reinterpret_cast<W*>(args.workspace);  // [weight, bias][blocks, h]
  const bool sum_weight = dweight != nullptr, sum_bias = dbias != nullptr;
  const bool accumulate = args.accumulates(s.x);
  parallel_blocks(args.threads, blocks, rows * h, [=](std::int64_t block) {
    W *weight_sums = partials + block * h, *bias_sums = partials + (blocks + block) * h;
    if (sum_weight) std::memset(static_cast<void*>(weight_sums), 0, static_cast<std::size_t>(h) * sizeof(W));
    if (sum_bias) std::memset(static_cast<void*>(bias_sums), 0, static_cast<std::size_t>(h) * sizeof(W));
    for (std::int64_t row = block * rows / blocks; row < (block + 1) * rows / blocks; ++row) {
      const W center = kCentered ? mean[row] : W(0), scale = rstd[row];
      const T *in = x + row * h, *d = dy + row * h;
      if (sum_weight) add_weight_row(in, d, weight_sums, h, center, scale);
      if (sum_bias) store_range(bias_sums, true, 0, h, [=](std::int64_t i) { return widen(d[i]); });
      if (dx == nullptr) continue;
      norm_row_gradient<kCentered>(in, d, weight, dsum == nullptr ? nullptr : dsum + row * h, dx + row * h, h, center,
                                   scale, accumulate);
    }
  });
  if (sum_weight) sum_partials(args.threads, partials, blocks, h, dweight, args.accumulates(s.weight));
  if (sum_bias) sum_partials(args.threads, partials + blocks * h, blocks, h, dbias, args.accumulates(s.bias));
}

template <class T>
void head_norm_forward(const KernelArgs& args) {
  using Op = HeadNorm;
  const auto& a = args.attrs<Op>();
  const T* x = args.v<T>(Op::kX);
  const T *query_weight = args.v<T>(Op::kQueryWeight), *key_weight = args.v<T>(Op::kKeyWeight);
  T* y = args.v<T>(Op::kY);
  auto* rstd = args.v<Wide<T>>(Op::kRstd);
  const TensorSpec& spec = args.value[Op::kX].spec;
  const std::int64_t width = spec.last(), h = a.head_dim, heads = a.heads, normed = a.heads + a.kv_heads;
  const double eps = a.eps;
  parallel_blocks(args.threads, spec.rows(), spec.elements(), [=](std::int64_t row) {
    const T* in = x + row * width;
    T* out = y + row * width;
    for (std::int64_t head = 0; head < normed; ++head) {
      const T *weight = head < heads ? query_weight : key_weight, *from = in + head * h;
      const Wide<T> scale = rstd[row * normed + head] = row_rstd(from, h, Wide<T>(0), eps);
      store_range(out + head * h, false, 0, h,
                  [=](std::int64_t i) { return widen(from[i]) * scale * widen(weight[i]); });
    }
    std::memcpy(out + normed * h, in + normed * h, static_cast<std::size_t>(width - normed * h) * sizeof(T));
  });
}

template <class T>
void head_norm_backward(const KernelArgs& args) {
  using Op = HeadNorm;
  using W = Wide<T>;
  if (without_gradient<Op>(args, Op::kY)) return;
  const auto& a = args.attrs<Op>();
  const T *x = args.v<T>(Op::kX), *dy = args.g<T>(Op::kY);
  const W* rstd = args.v<W>(Op::kRstd);
  const T *query_weight = args.v<T>(Op::kQueryWeight), *key_weight = args.v<T>(Op::kKeyWeight);
  T* dx = args.g<T>(Op::kX);
  W *dquery = args.g<W>(Op::kQueryWeight), *dkey = args.g<W>(Op::kKeyWeight);
  const TensorSpec& spec = args.grad[Op::kY].spec;
  const std::int64_t rows = spec.rows(), width = spec.last(), blocks = norm_row_blocks(rows);
  const std::int64_t h = a.head_dim, heads = a.heads, normed = a.heads + a.kv_heads;
  W* partials = reinterpret_cast<W*>(args.workspace);  // [query, key][blocks, h]
  const bool sums = dquery != nullptr || dkey != nullptr, accumulate = args.accumulates(Op::kX);
  parallel_blocks(args.threads, blocks, rows * width, [=](std::int64_t block) {
    W *query_sums = partials + block * h, *key_sums = partials + (blocks + block) * h;
    std::memset(static_cast<void*>(query_sums), 0, static_cast<std::size_t>(h) * sizeof(W));
    std::memset(static_cast<void*>(key_sums), 0, static_cast<std::size_t>(h) * sizeof(W));
    for (std::int64_t row = block * rows / blocks; row < (block + 1) * rows / blocks; ++row) {
      for (std::int64_t head = 0; head < normed; ++head) {
        const std::int64_t at = row * width + head * h;
        const W scale = rstd[row * normed + head];
        if (sums) add_weight_row(x + at, dy + at, head < heads ? query_sums : key_sums, h, W(0), scale);
        if (dx == nullptr) continue;
        norm_row_gradient<false>(x + at, dy + at, head < heads ? query_weight : key_weight,
                                 static_cast<const T*>(nullptr), dx + at, h, W(0), scale, accumulate);
      }
      const T* values = dy + row * width;
      if (dx == nullptr) continue;
      store_range(dx + row * width, accumulate, normed * h, width, [=](std::int64_t i) { return widen(values[i]); });
    }
  });
  if (dquery != nullptr) sum_partials(args.threads, partials, blocks, h, dquery, args.accumulates(Op::kQueryWeight));
  if (dkey != nullptr)
    sum_partials(args.threads, partials + blocks * h, blocks, h, dkey, args.accumulates(Op::kKeyWeight));
}

template <class Op, class T>
void add_norm(KernelTable& table) {
  table.add<Op>(Phase::Forward, dtype_of<T>(), norm_forward<Op, T>);
  table.add<Op>(Phase::InputGrad, dtype_of<T>(), norm_backward<Op, T>);
}

template <class T>
void add_for_type(KernelTable& table) {
  add_norm<LayerNorm, T>(table);
  add_norm<RmsNorm, T>(table);
  add_norm<AddLayerNorm, T>(table);
  add_norm<AddRmsNorm, T>(table);
  table.add<HeadNorm>(Phase::Forward, dtype_of<T>(), head_norm_forward<T>);
  table.add<HeadNorm>(Phase::InputGrad, dtype_of<T>(), head_norm_backward<T>);
}

}  // namespace

void add_norm_kernels(KernelTable& table) {
  add_for_type<float>(table);
  add_for_type<double>(table);
  add_for_type<bf16>(table);
  add_for_type<f16>(table);
}

}  // namespace plimsoll
