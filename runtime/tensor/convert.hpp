#pragma once
// Elements from one floating dtype to another.

#include <cstdint>

#include "runtime/tensor/dtype.hpp"

namespace plimsoll {

// `count` elements at `in` to `out`, which do not overlap: exact where `to` can hold them, else rounded to nearest
// even; f64 becomes bf16 or f16 by way of f32. Other dtypes are Error(Internal).
void convert_elements(DType from, const void* in, DType to, void* out, std::int64_t count);

}  // namespace plimsoll
