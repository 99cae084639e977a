#include <cmath>

#include "kernels/cpu/parallel.hpp"
#include "kernels/cpu/register.hpp"
#include "runtime/ops/attention.hpp"

namespace plimsoll {
namespace {

// table[t] = cos of the head_dim/2 angles at position first + t, then their sin.
template <class T>
void fill_table(const KernelArgs& args, T* table, std::int64_t length) {
  const auto& attrs = args.attrs<Rope>();
  const std::int64_t half = attrs.layout.head_dim / 2, first = args.inputs->position;
  const RopeRule rule = attrs.rule;
  const int head_dim = attrs.layout.head_dim;
  constexpr std::int64_t kBlock = 16;
  // The work is given as if every sine cost as much as eight elements.
  parallel_blocks(args.threads, (length + kBlock - 1) / kBlock, length * half * 8, [=](std::int64_t block) {
    const std::int64_t end = std::min(length, (block + 1) * kBlock);
    for (std::int64_t i = 0; i < half; ++i) {
      const T frequency = static_cast<T>(rope_inverse_frequency(rule, head_dim, static_cast<int>(i)));
      for (std::int64_t t = block * kBlock; t < end; ++t) {
        const T angle = static_cast<T>(first + t) * frequency;
        table[t * 2 * half + i] = std::cos(angle);
        table[t * 2 * half + half + i] = std::sin(angle);
      }
    }
  });
}

// Rotates by sign·angle. `in` may be `out` when nothing is accumulated.
template <class T>
void rotate(const KernelArgs& args, const View& from, const View& to, Wide<T> sign, bool accumulate) {
  using W = Wide<T>;
  const HeadLayout& layout = args.attrs<Rope>().layout;
  const Shape& shape = from.spec.shape;
  const std::int64_t length = shape[1], rows = shape[0] * length, width = shape[2];
  const std::int64_t head_dim = layout.head_dim, half = head_dim / 2, rotated = layout.heads + layout.kv_heads;
  W* table = reinterpret_cast<W*>(args.workspace);
  fill_table(args, table, length);
  const T* in = from.as<T>();
  T* out = to.as<T>();
  parallel_blocks(args.threads, rows, rows * width, [=](std::int64_t row) {
    const W *cosine = table + row % length * head_dim, *sine = cosine + half;
    for (std::int64_t head = 0; head < rotated; ++head) {
      const T *x1 = in + row * width + head * head_dim, *x2 = x1 + half;
      T *y1 = out + row * width + head * head_dim, *y2 = y1 + half;
      if (accumulate) {
#pragma omp simd
        for (std::int64_t i = 0; i < half; ++i) {
          const W a = widen(x1[i]), b = widen(x2[i]);
          y1[i] = convert<T>(widen(y1[i]) + (a * cosine[i] - sign * b * sine[i]));
          y2[i] = convert<T>(widen(y2[i]) + (b * cosine[i] + sign * a * sine[i]));
        }
      } else {
#pragma omp simd
        for (std::int64_t i = 0; i < half; ++i) {
          const W a = widen(x1[i]), b = widen(x2[i]);
          y1[i] = convert<T>(a * cosine[i] - sign * b * sine[i]);
          y2[i] = convert<T>(b * cosine[i] + sign * a * sine[i]);
        }
      }
    }
    const T* values = in + row * width;
    if (in == out) return;
    store_range(out + row * width, accumulate, rotated * head_dim, width,
                [=](std::int64_t i) { return widen(values[i]); });
  });
}

template <class T>
void rope_forward(const KernelArgs& args) {
  rotate<T>(args, args.value[Rope::kX], args.value[Rope::kY], 1, false);
}

template <class T>
void rope_backward(const KernelArgs& args) {
  if (!args.grad[Rope::kX] || without_gradient<Rope>(args, Rope::kY)) return;
  rotate<T>(args, args.grad[Rope::kY], args.grad[Rope::kX], -1, args.accumulates(Rope::kX));
}

template <class T>
void add_for_type(KernelTable& table) {
  table.add<Rope>(Phase::Forward, dtype_of<T>(), rope_forward<T>);
  table.add<Rope>(Phase::InputGrad, dtype_of<T>(), rope_backward<T>);
}

}  // namespace

void add_rope_kernels(KernelTable& table) {
  add_for_type<float>(table);
  add_for_type<double>(table);
  add_for_type<bf16>(table);
  add_for_type<f16>(table);
}

}  // namespace plimsoll
