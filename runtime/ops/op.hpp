#pragma once
// What an op declares, once. Everything else is derived from it: what backward keeps, lifetimes, memory traffic, FLOPs,
// autodiff's backward nodes, and the registry-driven tests.

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/ops/step_inputs.hpp"
#include "runtime/tensor/spec.hpp"

namespace plimsoll {

// What a node does. InputGrad makes the gradients of the inputs (and of the parameters, unless the op splits its
// backward); WeightGrad makes the gradients of the parameters of an op that splits. Reduce and Update act on parameter
// gradients.
enum class Phase : std::uint8_t { Forward, InputGrad, WeightGrad, Reduce, Update };
constexpr std::string_view phase_name(Phase p) {
  constexpr std::array<std::string_view, 5> names{"forward", "input_grad", "weight_grad", "reduce", "update"};
  return names[static_cast<std::size_t>(p)];
}

enum class Role : std::uint8_t {
  Input,   // read in forward; has a gradient when its dtype is floating
  Param,   // a parameter: read in forward; its gradient is persistent and accumulated over micro-batches
  Output,  // written in forward; its gradient is read in backward
  Stat,    // written in forward for backward's use only (mean, rstd, log-sum-exp, pre-activation): no gradient comes in
  State,   // persistent, read and written (key/value cache, moments); never differentiated
};

// Which backward nodes read the *value* of a slot. Of an op that does not split, only InputGrad exists and `Reads` is
// meant.
enum class Backward : std::uint8_t { Ignores = 0, InputGradReads = 1, WeightGradReads = 2, Reads = 3 };
constexpr bool reads_in(Backward b, Phase p) {
  const auto bits = static_cast<unsigned>(b);
  return (p == Phase::InputGrad && (bits & 1U) != 0) || (p == Phase::WeightGrad && (bits & 2U) != 0);
}

struct Slot {
  std::string_view name;
  Role role;
  Backward backward = Backward::Ignores;
  bool optional = false;
  // Output: may be written over this input (elementwise ops). Input: its gradient may be written over this output's
  // gradient. Stat of a splitting op: InputGrad leaves its gradient over this output's gradient, and WeightGrad reads
  // it.
  int over = -1;
  int same_gradient =
      -1;  // Input: its gradient is the very tensor that is the gradient of this earlier input (x of x + r)
};

inline constexpr int kMaxSlots = 10;

// Mixed precision, from the roles alone. Of an op that computes in bf16 or f16, Inputs, Params and Outputs and the
// gradients of Inputs and Outputs have that dtype. In f32 are gradients of Params, which are accumulated over
// micro-batches (Micikevicius et al. 2018), and Stats; but a Stat whose gradient lies over that of an output has the
// dtype of the output. Arithmetic is f32, rounded once where it is stored.
constexpr DType wide_dtype(DType dtype) { return dtype == DType::bf16 || dtype == DType::f16 ? DType::f32 : dtype; }
// Of a Stat of an op that computes in `compute`.
constexpr DType stat_dtype(const Slot& slot, DType compute) { return slot.over >= 0 ? compute : wide_dtype(compute); }
// Of the gradient of a slot whose value is `value`.
inline TensorSpec gradient_spec(const Slot& slot, TensorSpec value) {
  if (slot.role == Role::Param) value.dtype = wide_dtype(value.dtype);
  return value;
}

// The specs of one node's slots, by slot index. Absent optional slots are not present.
struct SlotSpecs {
  std::array<TensorSpec, kMaxSlots> spec;
  std::uint32_t present = 0;
  bool has(int slot) const { return (present >> slot & 1U) != 0; }
  const TensorSpec& operator[](int slot) const { return spec[static_cast<std::size_t>(slot)]; }
  void set(int slot, const TensorSpec& s) {
    spec[static_cast<std::size_t>(slot)] = s;
    present |= 1U << slot;
  }
};

// One case of the registry-driven tests: attributes and the specs of the Input, Param and State slots.
template <class Attrs>
struct Sample {
  Attrs attrs;
  SlotSpecs in;
  std::int64_t integer_limit = 0;  // integer inputs are drawn from [0, integer_limit)
};
struct SampleSlot {
  int slot;
  Shape shape;
  DType dtype = DType::f64;
};
template <class Attrs>
Sample<Attrs> make_sample(Attrs attrs, std::initializer_list<SampleSlot> slots, std::int64_t integer_limit = 0) {
  Sample<Attrs> s{std::move(attrs), {}, integer_limit};
  for (const SampleSlot& slot : slots) s.in.set(slot.slot, {slot.shape, slot.dtype});
  return s;
}

// `threads` of a kernel that runs on a GPU: none of the host's.
inline constexpr int kDeviceThreads = 0;
// What the library of matrix products may use there: what cuBLAS itself takes on Hopper. None on the host.
constexpr std::int64_t product_workspace_bytes(int threads) {
  return threads == kDeviceThreads ? std::int64_t{32} << 20 : 0;
}

// What an op has unless it says otherwise. An op derives from this and adds: Attrs, name, slots, infer() (sets the
// specs of Output and Stat slots; an optional one only where the attributes ask for it; bad shapes are
// Error(Internal)), flops(), samples().
struct OpDefaults {
  static constexpr bool splits_backward = false;  // InputGrad and WeightGrad are separate nodes
  static constexpr bool terminal = false;  // a loss: InputGrad needs no incoming gradient and also writes the outputs
  static constexpr bool inference_only = false;
  static constexpr bool straight_through = false;  // its outputs have no gradient; their readers take its input too
  static constexpr bool update_only = false;       // acts on flat parameter buffers in Phase::Update
  static constexpr bool collective = false;  // runs on a communication stream, over the group named in its attributes
  // Copies a value between device and host memory on the copy stream. Put into graphs after autodiff: has no backward.
  static constexpr bool copies = false;
  // A cheaper way to outputs that are needed a second time, from one that was kept: an op may name another, `Again`,
  // whose input "x" is this op's slot `again_from` and whose other slots have this op's names, with the attributes
  // again(). It makes the same bits.
  static constexpr int again_from = -1;
  // Scratch memory of a kernel, planned. `threads`: of the host, or kDeviceThreads for the kernels of a GPU.
  template <class A>
  static std::int64_t workspace_bytes(const A&, const SlotSpecs&, Phase, int /*threads*/) {
    return 0;
  }
};

// 2·m·n·k: multiply-adds count as two.
constexpr std::int64_t matmul_flops(std::int64_t m, std::int64_t n, std::int64_t k) { return 2 * m * n * k; }

}  // namespace plimsoll
