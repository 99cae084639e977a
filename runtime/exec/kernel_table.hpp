#pragma once
// Kernels by (op, phase, dtype) for one device. A kernel sees its slots and nothing else: no graph, no rank, no
// allocation.

#include <map>
#include <tuple>

#include "runtime/device/device.hpp"
#include "runtime/exec/reducer.hpp"
#include "runtime/ops/registry.hpp"

namespace plimsoll {

// What a kernel gets. Both arrays are indexed by slot.
// Forward and Update: `value` holds every present slot (inputs, parameters, outputs, stats, states).
// InputGrad, WeightGrad: `value` holds only the slots that the op declares as read in that phase (others: data ==
// nullptr;
//   a terminal op also gets its outputs); `grad` of Output slots comes in (nullptr: zero), `grad` of Input and Param
//   slots goes out (nullptr: not wanted). A Stat with `over`: InputGrad writes its grad, WeightGrad reads it (grad of
//   the Output it lies over is then nullptr in WeightGrad).
// Bit s of `accumulate`: add to grad[s] (of a terminal op's output: to value[s]) instead of overwriting it.
// A gradient shares memory with another only where the declaration's `over` or `same_gradient` allows it; of a pair
// with
//   same_gradient only the first is given in `grad`.
struct KernelArgs {
  const View* value = nullptr;
  const View* grad = nullptr;
  std::uint32_t accumulate = 0;
  const Attrs* attributes = nullptr;
  std::byte* workspace = nullptr;  // workspace_bytes() of the declaration, 64-byte aligned
  int threads = 1;
  const StepInputs* inputs = nullptr;
  StepOutputs* outputs = nullptr;
  const Reducer* group = nullptr;  // of the axis in the attributes, where there is one; of a collective a Group
  Stream* stream = nullptr;
  const char* label = "";  // of the node, for reports

  template <class Op>
  const typename Op::Attrs& attrs() const {
    return std::get<op_id<Op>>(*attributes);
  }
  CallSite site() const { return {label, stream}; }
  bool accumulates(int slot) const { return (accumulate >> slot & 1U) != 0; }
  template <class T>
  T* v(int slot) const {
    return value[slot].as<T>();
  }
  template <class T>
  T* g(int slot) const {
    return grad[slot].as<T>();
  }
};

using Kernel = void (*)(const KernelArgs&);

class KernelTable {
 public:
  template <class Op>
  void add(Phase phase, DType dtype, Kernel kernel) {
    kernels_[{op_id<Op>, phase, dtype}] = kernel;
  }
  // nullptr when there is none.
  Kernel find(OpId op, Phase phase, DType dtype) const {
    const auto at = kernels_.find({op, phase, dtype});
    return at == kernels_.end() ? nullptr : at->second;
  }

 private:
  std::map<std::tuple<OpId, Phase, DType>, Kernel> kernels_;
};

}  // namespace plimsoll
