#pragma once
// Runs one CPU kernel outside a graph: buffers for every slot, filled by the test.

#include <gtest/gtest.h>
#include <omp.h>

#include <array>
#include <cstring>
#include <vector>

#include "kernels/cpu/register.hpp"
#include "runtime/core/rng.hpp"

namespace plimsoll {

template <class Op, class T>
class KernelRunner {
 public:
  // Slots not given are absent if optional; outputs and statistics are inferred. Values and gradients begin as NaN.
  KernelRunner(typename Op::Attrs attributes, std::initializer_list<SampleSlot> slots)
      : attributes_(std::in_place_index<op_id<Op>>, attributes) {
    for (const SampleSlot& s : slots) specs_.set(s.slot, {s.shape, s.dtype == DType::f64 ? dtype_of<T>() : s.dtype});
    Op::infer(attributes, specs_);
    for (int s = 0; s < static_cast<int>(Op::slots.size()); ++s) {
      if (!specs_.has(s)) continue;
      buffer(value_, s).assign(static_cast<std::size_t>(specs_[s].bytes()), std::byte{0xFF});
      buffer(grad_, s) = buffer(value_, s);
    }
  }

  const SlotSpecs& specs() const { return specs_; }
  std::size_t elements(int slot) const { return static_cast<std::size_t>(specs_[slot].elements()); }
  template <class U = T>
  U* value(int slot) {
    return reinterpret_cast<U*>(buffer(value_, slot).data());
  }
  template <class U = T>
  U* grad(int slot) {
    return reinterpret_cast<U*>(buffer(grad_, slot).data());
  }
  std::vector<T> values_of(int slot) { return {value(slot), value(slot) + elements(slot)}; }
  std::vector<T> grads_of(int slot) { return {grad(slot), grad(slot) + elements(slot)}; }
  void fill_value(int slot, std::uint64_t seed, double size = 1) { fill(value(slot), elements(slot), seed, size); }
  void fill_grad(int slot, std::uint64_t seed, double size = 1) { fill(grad(slot), elements(slot), seed, size); }
  // The gradient of `slot` lies in the memory of that of `over`.
  void share_grad(int slot, int over) { shared_[static_cast<std::size_t>(slot)] = over; }
  void drop_grad(int slot) { no_grad_ |= 1U << slot; }

  // Backward phases see only the values that the op declares as read; a terminal op also its outputs.
  void run(Phase phase) {
    std::array<View, kMaxSlots> values, grads;
    for (int s = 0; s < static_cast<int>(Op::slots.size()); ++s) {
      if (!specs_.has(s)) continue;
      const Slot& slot = Op::slots[static_cast<std::size_t>(s)];
      const auto i = static_cast<std::size_t>(s);
      values[i].spec = grads[i].spec = specs_[s];
      if (phase == Phase::Forward || reads_in(slot.backward, phase) || (Op::terminal && slot.role == Role::Output)) {
        values[i].data = value(s);
      }
      if ((no_grad_ >> s & 1U) == 0 && is_floating(specs_[s].dtype)) {
        grads[i].data = grad(shared_[i] < 0 ? s : shared_[i]);
      }
    }
    const DType dtype = dtype_of<T>();
    const std::int64_t scratch = Op::workspace_bytes(std::get<op_id<Op>>(attributes_), specs_, phase, threads);
    constexpr std::size_t kGuard = 64;
    std::vector<std::byte> memory(static_cast<std::size_t>(scratch) + 2 * kGuard, std::byte{0xFF});
    const std::size_t skip = (kGuard - reinterpret_cast<std::uintptr_t>(memory.data()) % kGuard) % kGuard;
    KernelArgs args;
    args.value = values.data();
    args.grad = grads.data();
    args.accumulate = accumulate;
    args.attributes = &attributes_;
    args.workspace = memory.data() + skip;
    args.threads = threads;
    args.inputs = &inputs;
    const Kernel kernel = cpu_kernels().find(op_id<Op>, phase, dtype);
    ASSERT_NE(kernel, nullptr);
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    kernel(args);
    omp_set_num_threads(before);
    for (std::size_t i = skip + static_cast<std::size_t>(scratch); i < memory.size(); ++i) {
      ASSERT_EQ(memory[i], std::byte{0xFF}) << "workspace overrun";
    }
  }

  int threads = 1;
  std::uint32_t accumulate = 0;
  StepInputs inputs;

 private:
  using Buffers = std::array<std::vector<std::byte>, kMaxSlots>;
  static std::vector<std::byte>& buffer(Buffers& b, int slot) { return b[static_cast<std::size_t>(slot)]; }
  static void fill(T* to, std::size_t n, std::uint64_t seed, double size) {
    const RandomStream random(seed, "kernel_runner");
    for (std::size_t i = 0; i < n; ++i) to[i] = static_cast<T>(size * random.normal(i));
  }

  Attrs attributes_;
  SlotSpecs specs_;
  Buffers value_, grad_;
  std::array<int, kMaxSlots> shared_ = [] {
    std::array<int, kMaxSlots> none{};
    none.fill(-1);
    return none;
  }();
  std::uint32_t no_grad_ = 0;
};

}  // namespace plimsoll
