#pragma once
#include "kernels/cpu/parallel.hpp"

namespace plimsoll {

// to[j] (+)= Σ_i from[i, j], i ascending in partial sums: the same bits for any number of threads. from [rows, n].
template <class T>
void sum_columns(const KernelArgs& args, std::int64_t rows, std::int64_t n, const T* from, bool add, Wide<T>* to) {
  constexpr std::int64_t kColumns = 64;  // that a thread sums at a time
  constexpr std::int64_t kSumRows = 32;  // of a partial sum
  using W = Wide<T>;
  parallel_blocks(args.threads, (n + kColumns - 1) / kColumns, rows * n, [=](std::int64_t block_of_columns) {
    const std::int64_t first = block_of_columns * kColumns;
    const std::int64_t count = std::min(kColumns, n - first);
    W total[kColumns] = {};
    for (std::int64_t block = 0; block < rows; block += kSumRows) {
      W partial[kColumns] = {};
      for (std::int64_t i = block; i < std::min(rows, block + kSumRows); ++i) {
        for (std::int64_t j = 0; j < count; ++j) partial[j] += widen(from[i * n + first + j]);
      }
      for (std::int64_t j = 0; j < count; ++j) total[j] += partial[j];
    }
    for (std::int64_t j = 0; j < count; ++j) to[first + j] = add ? to[first + j] + total[j] : total[j];
  });
}

}  // namespace plimsoll
