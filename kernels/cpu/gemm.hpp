#pragma once
// Matrix products of the CPU kernels: one interface over libxsmm, OpenBLAS, oneDNN and Eigen. Matrices are row-major.
// All backends use the OpenMP threads of the calling thread (omp_get_max_threads()); inside a parallel region the
// product runs on the calling thread alone. libxsmm and oneDNN return the same bits for every
// thread count, OpenBLAS for most shapes.

#include <cstdint>
#include <string>
#include <string_view>

namespace plimsoll {

// Rows [row, row_end) and columns [column, column_end) of a product.
struct GemmBlock {
  std::int64_t row, row_end, column, column_end;
};

// What follows a product element by element (bias, activation): a call with each finished block of C, on the thread
// that computed it, without waiting for the other threads. Refers to a function object that outlives the product;
// allocates nothing.
class GemmEpilogue {
 public:
  GemmEpilogue() = default;
  template <class F>
  explicit GemmEpilogue(const F& finish)
      : finish_(&finish), call_([](const void* f, const GemmBlock& block) { (*static_cast<const F*>(f))(block); }) {}

  explicit operator bool() const { return call_ != nullptr; }
  void operator()(const GemmBlock& block) const { call_(finish_, block); }

 private:
  const void* finish_ = nullptr;
  void (*call_)(const void*, const GemmBlock&) = nullptr;
};

// C[m,n] = op(A)[m,k] · op(B)[k,n] + beta · C, then `epilogue` on every element of C once; where op(X) is X, or X
// transposed when its flag is set. `lda` is the distance in elements between rows of A as stored: A is [m,k], or [k,m]
// with trans_a; likewise `ldb` (B is [k,n], or [n,k] with trans_b) and `ldc`. With beta = 0, C is written without being
// read. k = 0 only scales C. A and B may not overlap C. Throws Internal for negative sizes or a leading dimension
// shorter than a row. `T` is float or double; double exists for tests and runs on OpenBLAS or Eigen.
template <class T>
void gemm(bool trans_a, bool trans_b, std::int64_t m, std::int64_t n, std::int64_t k, const T* a, std::int64_t lda,
          const T* b, std::int64_t ldb, T beta, T* c, std::int64_t ldc, GemmEpilogue epilogue = {});

extern template void gemm<float>(bool, bool, std::int64_t, std::int64_t, std::int64_t, const float*, std::int64_t,
                                 const float*, std::int64_t, float, float*, std::int64_t, GemmEpilogue);
extern template void gemm<double>(bool, bool, std::int64_t, std::int64_t, std::int64_t, const double*, std::int64_t,
                                  const double*, std::int64_t, double, double*, std::int64_t, GemmEpilogue);

// The backend in use: "libxsmm", "openblas", "onednn" or "eigen". At start it is the first one of that list that was
// built in. What libxsmm does not take (xsmm_gemm.hpp) the next one of the list computes.
std::string gemm_backend();

// Selects a backend for the whole process; Config error, naming those that exist, when this build lacks it. Not to be
// called while a product runs.
void set_gemm_backend(std::string_view name);

// The libraries and CPU core types that run the products, for reports: "libxsmm 1.17 clx, OpenBLAS 0.3.21 SkylakeX".
std::string gemm_description();

}  // namespace plimsoll
