#pragma once
// The Eigen backend of gemm.hpp, in a file of its own because Eigen's headers are slow to compile.

#include <cstdint>
#include <string>

namespace plimsoll {

// The arguments of gemm(), checked, with m, n and k above zero.
template <class T>
struct GemmArguments {
  bool trans_a, trans_b;
  std::int64_t m, n, k;
  const T* a;
  std::int64_t lda;
  const T* b;
  std::int64_t ldb;
  T beta;
  T* c;
  std::int64_t ldc;
};

// C = op(A) · op(B) + beta · C as gemm() defines it, for float and double.
template <class T>
void eigen_gemm(const GemmArguments<T>& arguments);

extern template void eigen_gemm<float>(const GemmArguments<float>&);
extern template void eigen_gemm<double>(const GemmArguments<double>&);

// "Eigen 3.4.0"
std::string eigen_description();

}  // namespace plimsoll
