// GCC 12 takes the undefined operand of AVX-512 intrinsics for an uninitialised variable (GCC bug 105593).
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include "kernels/cpu/eigen_gemm.hpp"

#include <fmt/format.h>

#include <Eigen/Core>

namespace plimsoll {
namespace {

template <class T>
using RowMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using ConstMap = Eigen::Map<const RowMajor<T>, 0, Eigen::OuterStride<>>;
template <class T>
using MutableMap = Eigen::Map<RowMajor<T>, 0, Eigen::OuterStride<>>;

}  // namespace

template <class T>
void eigen_gemm(const GemmArguments<T>& p) {
  const ConstMap<T> a(p.a, p.trans_a ? p.k : p.m, p.trans_a ? p.m : p.k, Eigen::OuterStride<>(p.lda));
  const ConstMap<T> b(p.b, p.trans_b ? p.n : p.k, p.trans_b ? p.k : p.n, Eigen::OuterStride<>(p.ldb));
  MutableMap<T> c(p.c, p.m, p.n, Eigen::OuterStride<>(p.ldc));
  if (p.beta == T(0)) {
    c.setZero();
  } else if (p.beta != T(1)) {
    c *= p.beta;
  }
  if (p.trans_a && p.trans_b) {
    c.noalias() += a.transpose() * b.transpose();
  } else if (p.trans_a) {
    c.noalias() += a.transpose() * b;
  } else if (p.trans_b) {
    c.noalias() += a * b.transpose();
  } else {
    c.noalias() += a * b;
  }
}

template void eigen_gemm<float>(const GemmArguments<float>&);
template void eigen_gemm<double>(const GemmArguments<double>&);

std::string eigen_description() {
  return fmt::format("Eigen {}.{}.{}", EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION);
}

}  // namespace plimsoll
