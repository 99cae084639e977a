#pragma once
// The workspace of cross-entropy as its declaration lays it out, for the kernels of every device.

#include "runtime/exec/kernel_table.hpp"

namespace plimsoll {

template <class T>
struct LossWorkspace {
  explicit LossWorkspace(const KernelArgs& a)
      : rows(a.value[CrossEntropy::kX].spec.rows()),
        hidden(a.value[CrossEntropy::kX].spec.last()),
        vocabulary(a.value[CrossEntropy::kWeight].spec.shape[0]),
        chunk(a.attrs<CrossEntropy>().rows_per_chunk(rows)) {
    constexpr std::int64_t kAlign = 64 / std::int64_t{sizeof(T)};
    const auto& attrs = a.attrs<CrossEntropy>();
    padded = (vocabulary + kAlign - 1) / kAlign * kAlign;
    reduction = a.workspace + product_workspace_bytes(a.threads);
    logits = reinterpret_cast<T*>(reduction + CrossEntropy::reduction_bytes(attrs, chunk));
    losses = reinterpret_cast<double*>(logits + chunk * padded);
    if (attrs.ranks == 1) return;
    sums = losses;
    maxima = sums + 2 * chunk;
    losses = maxima + chunk;
  }

  std::int64_t rows, hidden, vocabulary, chunk, padded = 0;  // padded: elements from a row of logits to the next
  std::byte* reduction = nullptr;
  T* logits = nullptr;
  double *losses = nullptr, *sums = nullptr, *maxima = nullptr;  // the latter where the vocabulary is split over ranks
};

}  // namespace plimsoll
