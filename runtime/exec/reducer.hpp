#pragma once
// What a kernel may ask, in its middle, of the ranks of its axis. A Group (comm) is one.

#include <cstddef>
#include <cstdint>

#include "runtime/tensor/spec.hpp"

namespace plimsoll {

enum class ReduceOp : std::uint8_t { Sum, Max };

class Reducer {
 public:
  Reducer() = default;
  Reducer(const Reducer&) = default;
  Reducer(Reducer&&) = default;
  Reducer& operator=(const Reducer&) = default;
  Reducer& operator=(Reducer&&) = default;
  virtual ~Reducer() = default;
  // x = reduction over ranks, element by element in rank order; `scratch`: reduce_scratch_bytes() of x's share.
  // `label`: of the node that asks, for reports.
  virtual void all_reduce(View x, ReduceOp op, std::byte* scratch, const char* label) const = 0;
};

}  // namespace plimsoll
