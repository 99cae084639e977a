#pragma once
// How a product that is made of tiles is shared among threads.

#include <omp.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/gemm.hpp"

namespace plimsoll {

constexpr std::int64_t ceil_div(std::int64_t x, std::int64_t y) { return (x + y - 1) / y; }

inline constexpr std::int64_t kTileColumns = 64;  // of a tile of B: four vectors
// Rows that one call multiplies, from a multiple of it on: kernels differ in the order of sums where a call has fewer
// rows or columns. A multiple of the six rows that a kernel holds in registers beside a tile's columns.
inline constexpr std::int64_t kTileRows = 48;

// A grid of threads over C [m, n], such that the largest share takes the least time; packing an element takes about as
// long as kPacking multiplications with it. Shares begin at multiples of kTileRows and kTileColumns.
class GemmGrid {
 public:
  GemmGrid(std::int64_t m, std::int64_t n, int threads) : m_(m), n_(n) {
    constexpr std::int64_t kPacking = 24;
    std::int64_t least = -1;
    for (int across = 1; across <= threads; ++across) {
      if (threads % across != 0) continue;
      const std::int64_t rows = ceil_div(ceil_div(m_, kTileRows), threads / across) * kTileRows;
      const std::int64_t columns = ceil_div(ceil_div(n_, kTileColumns), across) * kTileColumns;
      const std::int64_t cost = (rows + kPacking) * columns;
      if (least >= 0 && cost >= least) continue;
      least = cost;
      rows_ = rows;
      columns_ = columns;
      across_ = across;
    }
  }
  GemmBlock operator[](int thread) const {
    const std::int64_t i = thread / across_, j = thread % across_;
    return {std::min(m_, i * rows_), std::min(m_, (i + 1) * rows_), std::min(n_, j * columns_),
            std::min(n_, (j + 1) * columns_)};
  }

 private:
  std::int64_t m_, n_, rows_ = 0, columns_ = 0;
  int across_ = 1;
};

// Calls multiply(share) for shares of C [m, n], k multiplications deep, on up to `threads` threads.
template <class F>
void for_gemm_shares(std::int64_t m, std::int64_t n, std::int64_t k, int threads, const F& multiply) {
  constexpr std::int64_t kThreadWork = 1 << 18;  // multiplications for which it pays to wake a thread
  const auto used = static_cast<int>(std::min<std::int64_t>(threads, 1 + m * n * k / kThreadWork));
  if (used == 1 || omp_in_parallel()) return multiply(GemmBlock{0, m, 0, n});
  const GemmGrid grid(m, n, used);
#pragma omp parallel num_threads(used)
  for (int i = omp_get_thread_num(); i < used; i += omp_get_num_threads()) {
    if (const GemmBlock share = grid[i]; share.row < share.row_end && share.column < share.column_end) multiply(share);
  }
}

}  // namespace plimsoll
