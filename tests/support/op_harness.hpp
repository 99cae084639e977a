#pragma once
// Runs one op's kernels on one sample of its declaration, the way an executor may run them: with or without gradients,
// accumulating, in place, with any number of threads. Kernels run in a counted region (AllocationCounter). Every buffer
// lies between guards, outputs and workspace start as NaN, and a kernel that writes elsewhere or leaves something out
// fails the test.

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include "runtime/exec/kernel_table.hpp"

namespace plimsoll::test {

struct OpCase {
  const OpInfo* op = nullptr;
  Attrs attrs;
  SlotSpecs specs;  // of all present slots
  std::int64_t integer_limit = 0;
  DType dtype() const { return compute_dtype(*op, specs); }
  int slots() const { return static_cast<int>(op->slots.size()); }
  const Slot& slot(int s) const { return op->slots[static_cast<std::size_t>(s)]; }
  int ranks() const;         // that run it together: more than 1 for collectives only
  std::string text() const;  // "layer_norm(f64[3, 5, 7], f64[7])"
};

// The samples of an op with f32 or f64 in the place of f64, outputs inferred. Float slots that a declaration fixes to
// another dtype keep it.
std::vector<OpCase> op_cases(const OpInfo& op, DType dtype);

using SlotNumbers = std::array<std::vector<double>, kMaxSlots>;

// All floats are exact in f32, so that both precisions start from the same numbers.
struct OpInputs {
  SlotNumbers value;             // Input, Param, State
  SlotNumbers grad;              // incoming gradients, of the Output slots
  SlotNumbers previous;          // what accumulation adds to
  std::vector<OpInputs> others;  // of ranks 1, 2 …
};
OpInputs random_inputs(const OpCase& c, std::uint64_t seed);

struct OpRun {
  int threads = 1;
  bool poison = false;      // undeclared values are given as NaN instead of nullptr
  bool in_place = false;    // outputs over inputs and gradients over gradients wherever the declaration allows it
  bool accumulate = false;  // every gradient, and a terminal op's outputs
  std::uint32_t without_grad = 0;  // bit s: grad[s] is nullptr
  bool backward = true;
  Phase phase = Phase::Forward;  // the first one: ops that act on parameter buffers have another
  // Where the kernels run, which then get copies of the buffers in its memory; null: on the host.
  Device* device = nullptr;
};

// Bytes by slot; empty where the run made nothing.
struct OpResult {
  std::array<std::vector<std::byte>, kMaxSlots>
      value;  // Output, Stat, State (after forward; of a terminal op after backward)
  std::array<std::vector<std::byte>, kMaxSlots> grad;  // outgoing
  std::vector<OpResult> others;                        // of ranks 1, 2 …
};

// The step inputs of every run: seed 7, first_sample 3, position 2, loss_seed 0.37.
StepInputs harness_step_inputs();

// Collectives run on their ranks as threads. Reports guards that were overwritten as test failures.
OpResult run_op(const KernelTable& kernels, const OpCase& c, const OpInputs& in, const OpRun& how);

std::vector<double> to_numbers(const std::vector<std::byte>& bytes, DType dtype);
std::vector<std::byte> to_bytes(const std::vector<double>& numbers, DType dtype);

// Whether the kernels leave gradients in this slot: floating inputs and parameters, unless another slot stands for
// them.
bool gradient_goes_out(const OpCase& c, int slot);

// Whether the declaration means the same tensor on all ranks: x of copy_to, y of reduce_from, and their gradients.
bool same_on_all_ranks(const OpCase& c, int slot);

}  // namespace plimsoll::test
