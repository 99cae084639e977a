#pragma once
// Matrix products of the CPU kernels: one interface over OpenBLAS, oneDNN and Eigen. Matrices are row-major.
// All backends use the OpenMP threads of the calling thread (omp_get_max_threads()); inside a parallel region the
// product runs on the calling thread alone. OpenBLAS and oneDNN return the same bits for every thread count.

#include <cstdint>
#include <string>
#include <string_view>

namespace plimsoll {

// C[m,n] = op(A)[m,k] · op(B)[k,n] + beta · C, where op(X) is X, or X transposed when its flag is set.
// `lda` is the distance in elements between rows of A as stored: A is [m,k], or [k,m] with trans_a; likewise `ldb`
// (B is [k,n], or [n,k] with trans_b) and `ldc`. With beta = 0, C is written without being read. k = 0 only scales C.
// A and B may not overlap C. Throws Internal for negative sizes or a leading dimension shorter than a row.
// `T` is float or double; double exists for tests and runs on OpenBLAS or Eigen.
template <class T>
void gemm(bool trans_a, bool trans_b, std::int64_t m, std::int64_t n, std::int64_t k, const T* a, std::int64_t lda,
          const T* b, std::int64_t ldb, T beta, T* c, std::int64_t ldc);

extern template void gemm<float>(bool, bool, std::int64_t, std::int64_t, std::int64_t, const float*, std::int64_t,
                                 const float*, std::int64_t, float, float*, std::int64_t);
extern template void gemm<double>(bool, bool, std::int64_t, std::int64_t, std::int64_t, const double*, std::int64_t,
                                  const double*, std::int64_t, double, double*, std::int64_t);

// The backend in use: "openblas", "onednn" or "eigen". At start it is the first one of that list that was built in.
std::string gemm_backend();

// Selects a backend for the whole process; Config error, naming those that exist, when this build lacks it. Not to be
// called while a product runs.
void set_gemm_backend(std::string_view name);

// The library and CPU core type that runs the products, for reports: "OpenBLAS 0.3.21 SkylakeX".
std::string gemm_description();

// The fastest rate, in GFLOP/s, that fp32 products of transformer shapes reach on this machine with `threads` threads.
// Takes about 0.3 s and 40 MB; leaves the thread count as it was.
double measure_gemm_gflops(int threads);

}  // namespace plimsoll
