#pragma once
// Sizes of tensors that a configuration asks for: every key may be in its range and their product still be more than 64
// bits count. What was checked here, elements() and bytes() and sums of a few of them may be trusted.

#include <string_view>

#include "runtime/tensor/spec.hpp"

namespace plimsoll {

inline constexpr std::int64_t kMostBytes = std::int64_t{1} << 60;  // of a value, and of all values of a plan together

// a * b + c of numbers from 0 on; kMostBytes + 1 where that is more than kMostBytes.
inline std::int64_t capped_bytes(std::int64_t a, std::int64_t b, std::int64_t c) {
  std::int64_t product = 0, sum = 0;
  const bool over = __builtin_mul_overflow(a, b, &product) || __builtin_add_overflow(product, c, &sum);
  return over || sum > kMostBytes ? kMostBytes + 1 : sum;
}

// Throws Error(Config), which names the value, where it has more than kMostBytes.
inline void require_countable(const TensorSpec& spec, std::string_view name) {
  std::int64_t bytes = dtype_bytes(spec.dtype);
  for (const std::int64_t dim : spec.shape) bytes = dim == 0 ? 0 : capped_bytes(bytes, dim, 0);
  require(bytes <= kMostBytes, ErrorKind::Config,
          "'{}' would be {}, more than {} bytes: train.micro_batch, data.sequence or the sizes of model are too large",
          name, to_string(spec), kMostBytes);
}

}  // namespace plimsoll
