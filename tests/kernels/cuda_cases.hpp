#pragma once
// The samples of an op as the kernels of a GPU take them.

#include "tests/support/op_harness.hpp"

namespace plimsoll::test {

inline Phase first_phase(const OpInfo& op) {
  if (op.id == op_id<Clear>) return Phase::Reduce;
  return op.update_only ? Phase::Update : Phase::Forward;
}

// As op_cases(); of an op that acts on parameter buffers, which are f32, norms and their sums stay in fp64.
inline std::vector<OpCase> device_cases(const OpInfo& op, DType dtype) {
  if (!op.update_only) return op_cases(op, dtype);
  std::vector<OpCase> cases;
  for (const AnySample& sample : op.samples()) {
    OpCase c{&op, sample.attrs, sample.in, sample.integer_limit};
    for (int s = 0; s < c.slots(); ++s) {
      const bool sum = c.slot(s).name == "norm" || c.slot(s).name == "sums";
      TensorSpec& spec = c.specs.spec[static_cast<std::size_t>(s)];
      if (!sum && spec.dtype == DType::f64) spec.dtype = DType::f32;
    }
    op.infer(c.attrs, c.specs);
    cases.push_back(std::move(c));
  }
  return cases;
}

}  // namespace plimsoll::test
