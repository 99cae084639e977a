#pragma once
// How CPU kernels split work: into blocks whose bounds depend on the size alone, so that results do not depend on the
// number of threads. Threads take contiguous runs of blocks.

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/cast.hpp"
#include "kernels/no_gradient.hpp"
#include "runtime/exec/kernel_table.hpp"

namespace plimsoll {

inline constexpr std::int64_t kSerialElements = 16384;  // below this much work, waking threads costs more than it saves
inline constexpr std::int64_t kBlockElements = 4096;

// Calls body(block) for 0 ≤ block < blocks; `elements` is the total work, which decides whether threads are used.
template <class F>
void parallel_blocks(int threads, std::int64_t blocks, std::int64_t elements, F&& body) {
  if (threads <= 1 || blocks <= 1 || elements < kSerialElements) {
    for (std::int64_t b = 0; b < blocks; ++b) body(b);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t b = 0; b < blocks; ++b) body(b);
}

// Calls body(begin, end) for consecutive ranges of kBlockElements elements.
template <class F>
void parallel_elements(int threads, std::int64_t n, F&& body) {
  parallel_blocks(threads, (n + kBlockElements - 1) / kBlockElements, n,
                  [&](std::int64_t b) { body(b * kBlockElements, std::min(n, (b + 1) * kBlockElements)); });
}

// out[i] = f(i), or out[i] += f(i), rounded once. f may read out[i], so gradients may lie over each other.
template <class T, class F>
[[gnu::always_inline]] inline void store_range(T* out, bool accumulate, std::int64_t begin, std::int64_t end, F&& f) {
  if (accumulate) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) out[i] = convert<T>(widen(out[i]) + f(i));
  } else {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) out[i] = convert<T>(f(i));
  }
}

template <class T>
void parallel_zero(int threads, T* out, std::int64_t n) {
  parallel_elements(threads, n, [=](std::int64_t begin, std::int64_t end) {
    std::memset(static_cast<void*>(out + begin), 0, static_cast<std::size_t>(end - begin) * sizeof(T));
  });
}

template <class Op>
bool without_gradient(const KernelArgs& args, int y) {
  return without_gradient<Op>(
      args, y, [&](const View& out) { parallel_zero(args.threads, out.as<std::byte>(), out.spec.bytes()); });
}

}  // namespace plimsoll
