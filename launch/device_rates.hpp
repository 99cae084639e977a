#pragma once
// What the kernels of a backend reach on large operands, timed by the device's own clock: on this rank alone. Operands
// grow until a launch takes a millisecond, or a quarter of the free memory is theirs. 0: there is no such kernel.

#include "launch/backend.hpp"

namespace plimsoll {

// FLOP/s of products into the dtype of their operands, the best of the sizes; in fp8 those of linears of bf16, which
// round one operand for it. 0 where a GPU has no tensor cores for fp8.
double product_flops_per_s(Backend& backend, DType dtype);
// FLOP/s of the forward of causal attention, heads of 64.
double attention_flops_per_s(Backend& backend, DType dtype);
// Read and written together, by a sum of two arrays.
double elementwise_bytes_per_s(Backend& backend);
// From the host's memory to the device's, by the copy stream.
double copied_bytes_per_s(Backend& backend);

}  // namespace plimsoll
