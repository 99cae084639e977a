#pragma once
// The Eigen backend of gemm.hpp, in a file of its own because Eigen's headers are slow to compile.

#include <string>

#include "kernels/cpu/gemm_arguments.hpp"

namespace plimsoll {

// C = op(A) · op(B) + beta · C as gemm() defines it, for float and double.
template <class T>
void eigen_gemm(const GemmArguments<T>& arguments);

extern template void eigen_gemm<float>(const GemmArguments<float>&);
extern template void eigen_gemm<double>(const GemmArguments<double>&);

// "Eigen 3.4.0"
std::string eigen_description();

}  // namespace plimsoll
