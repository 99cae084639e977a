#pragma once
// Launchers of what fp8 products need around them.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "runtime/ops/fp8_scaling.hpp"

namespace plimsoll::cuda {

// Codes lie as their tensor does, or turned: [columns, rows].
enum class Fp8Order : std::uint8_t { Same, Turned };

// to = from [rows, columns] · scale in the format of `role`; the largest |from| goes into `scaling`. `inverses`
// [kFp8Roles], where it is not null: 1 / scale of every role, which products take off their sums. T: float, bf16, f16.
template <class T>
void quantize_fp8(cudaStream_t stream, const T* from, std::int64_t rows, std::int64_t columns, Fp8Role role,
                  Fp8Order order, Fp8Scaling* scaling, const StepInputs* inputs, std::uint8_t* to, float* inverses);
// Codes [rows, columns], turned.
void turn_codes(cudaStream_t stream, const std::uint8_t* from, std::int64_t rows, std::int64_t columns,
                std::uint8_t* to);
void update_fp8_scales(cudaStream_t stream, Fp8Scaling* scaling, float* history, std::int64_t linears);

}  // namespace plimsoll::cuda
