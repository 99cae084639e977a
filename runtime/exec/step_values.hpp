#pragma once
// The host's side of the two blocks that host and kernels exchange values through: StepInputs, sent in the order of the
// compute stream before each section of a program, and StepOutputs.

#include "runtime/device/staging.hpp"
#include "runtime/ops/op.hpp"

namespace plimsoll {

class StepValues {
 public:
  // The blocks lie in device memory; `device` outlives it, and it the streams that it was sent on.
  StepValues(Device& device, std::byte* inputs, const std::byte* outputs)
      : device_(device), to_(inputs), from_(outputs), staging_(device, sizeof(StepInputs), kOnTheirWay) {}

  // What the next send() carries. May change behind it.
  StepInputs& inputs() { return inputs_; }
  void send(Stream& compute) { staging_.send(compute, to_, &inputs_, sizeof(inputs_)); }
  // Of what ran, when the device is idle.
  StepOutputs outputs() const {
    StepOutputs outputs;
    device_.copy_to_host(&outputs, from_, sizeof(outputs));
    return outputs;
  }

 private:
  // Sections that the host may be ahead by: forward and backward of a few micro-batches.
  static constexpr int kOnTheirWay = 16;

  Device& device_;
  std::byte* to_;
  const std::byte* from_;
  Staging staging_;
  StepInputs inputs_;
};

}  // namespace plimsoll
