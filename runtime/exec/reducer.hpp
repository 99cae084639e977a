#pragma once
// What a kernel may ask, in its middle, of the ranks of its axis. A Group (comm) is one.

#include <cstddef>
#include <cstdint>

#include "runtime/device/device.hpp"
#include "runtime/tensor/spec.hpp"

namespace plimsoll {

enum class ReduceOp : std::uint8_t { Sum, Max };

// Where a collective is asked for. With a stream, by a task that runs on it: a transport for a device takes the tensors
// to lie in its memory, and what is asked happens in the order of the stream. Without one they lie in host memory, and
// it has happened on return. `label`: of the node that asks, for reports; outlives the call and what it queued.
struct CallSite {
  const char* label = "";
  Stream* stream = nullptr;
  CallSite(const char* text = "", Stream* order = nullptr) : label(text), stream(order) {}
};

class Reducer {
 public:
  Reducer() = default;
  Reducer(const Reducer&) = default;
  Reducer(Reducer&&) = default;
  Reducer& operator=(const Reducer&) = default;
  Reducer& operator=(Reducer&&) = default;
  virtual ~Reducer() = default;
  // x = reduction over ranks, element by element in rank order; `scratch`: reduce_scratch_bytes() of x's share.
  virtual void all_reduce(View x, ReduceOp op, std::byte* scratch, const CallSite& at) const = 0;
};

// A rank of a group that nobody else is in, for kernels that are called to no end but the call.
class Alone : public Reducer {
 public:
  void all_reduce(View, ReduceOp, std::byte*, const CallSite&) const override {}
};

}  // namespace plimsoll
