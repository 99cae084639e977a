#pragma once
// What the host tells kernels in a step, and what they tell the host. Without fmt: device code includes it.

#include <cstdint>

namespace plimsoll {

// Host values that kernels read, in device memory, written by the host before the nodes that read them are launched.
struct StepInputs {
  float learning_rate = 0;
  float bias_correction1 = 1;  // 1 - beta1^t, t counts applied updates
  float bias_correction2 = 1;
  float loss_scale = 1;
  double loss_seed = 1;    // gradient of each token's loss: loss_scale / global count of valid tokens
  std::uint64_t seed = 0;  // of the run: dropout streams are (seed, site)
  std::uint64_t step = 0;
  std::uint64_t updates = 0;       // that were applied before this step's
  std::uint64_t first_sample = 0;  // global index of row 0 of this micro-batch, over the whole run: dropout counters
  std::int64_t position = 0;       // position of column 0: 0 in training, the number of cached tokens when decoding
};

// Values that kernels leave for the host.
struct StepOutputs {
  double grad_norm = 0;        // global norm of the averaged gradients, before clipping
  std::int64_t found_inf = 0;  // 1: the norm is not finite; updates did nothing
};

}  // namespace plimsoll
