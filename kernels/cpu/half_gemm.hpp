#pragma once
// Matrix products of 16-bit numbers with sums in float. On CPUs with AVX-512 BF16, libxsmm's generated kernels multiply
// pairs of bf16; elsewhere, and for f16, blocks are widened to float in a thread's buffers and multiplied there, by
// libxsmm or, without it, by tile_product.hpp. The bits do not depend on the number of threads.

#include <cstdint>

#include "kernels/cpu/gemm_arguments.hpp"
#include "runtime/tensor/dtype.hpp"

namespace plimsoll {

// Who takes the finished sums: called once with each block of C and its sums, whose rows are `stride` apart, on the
// thread that made them. Refers to a function object that outlives the product; allocates nothing.
class SumsReader {
 public:
  template <class F>
  explicit SumsReader(const F& take)
      : take_(&take), call_([](const void* f, const GemmBlock& block, const float* sums, std::int64_t stride) {
          (*static_cast<const F*>(f))(block, sums, stride);
        }) {}
  void operator()(const GemmBlock& block, const float* sums, std::int64_t stride) const {
    call_(take_, block, sums, stride);
  }

 private:
  const void* take_;
  void (*call_)(const void*, const GemmBlock&, const float*, std::int64_t);
};

// On the OpenMP threads of the caller, as gemm(); each keeps 576 KiB, from its first product on. Throws Internal where
// gemm() does. `T` is bf16 or f16.
template <class T>
void half_gemm(const GemmOperands<T>& product, const SumsReader& reader);

extern template void half_gemm<bf16>(const GemmOperands<bf16>&, const SumsReader&);
extern template void half_gemm<f16>(const GemmOperands<f16>&, const SumsReader&);

}  // namespace plimsoll
