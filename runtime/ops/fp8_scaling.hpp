#pragma once
// Per-tensor delayed scaling of fp8 (NVIDIA Transformer Engine's recipe): a tensor is quantised with a scale that
// maximums of earlier steps decided, while its own maximum is measured for later ones. Without fmt: device code
// includes it.

#include <cstdint>

#include "runtime/ops/step_inputs.hpp"

#ifdef __CUDACC__
#define PLIMSOLL_HOST_DEVICE __host__ __device__
#else
#define PLIMSOLL_HOST_DEVICE
#endif

namespace plimsoll {

// What a linear quantises: its input and weight to e4m3, the gradient of its output, which needs the range, to e5m2.
enum class Fp8Role : std::int32_t { Input, Weight, Gradient };
inline constexpr int kFp8Roles = 3;
// Steps whose maximums decide a scale.
inline constexpr int kFp8History = 16;

// Of the format of a role.
PLIMSOLL_HOST_DEVICE constexpr float fp8_most(Fp8Role role) { return role == Fp8Role::Gradient ? 57344.0F : 448.0F; }

// Of one linear, f32 [2, kFp8Roles]: the scales of this step, 0 where none is decided yet, then the largest magnitudes
// since they were.
struct Fp8Scaling {
  float scale[kFp8Roles], amax[kFp8Roles];
};

// What a tensor is multiplied with before it is rounded to fp8. Before the first step nothing was measured. The maximum
// of the tensor at hand would need a pass of its own, and micro-batches and ranks would not agree; so the first step
// has fixed scales, from the magnitudes that are usual there: activations behind a norm are near 1; weights are far
// below it, and up to 7 none saturates; the gradients of a token are those of its loss, divided by the tokens.
PLIMSOLL_HOST_DEVICE inline float fp8_scale(const Fp8Scaling& scaling, Fp8Role role, const StepInputs& inputs) {
  const float scale = scaling.scale[static_cast<int>(role)];
  if (scale > 0) return scale;
  return role == Fp8Role::Input    ? 1.0F  // activations
         : role == Fp8Role::Weight ? 64.0F
                                   : static_cast<float>(1.0 / inputs.loss_seed);
}

// The next scale of a tensor whose `amax` was the largest magnitude of its last steps: the largest finite number of the
// format stands for it, without a margin. Nothing measured, or nothing but zeros: the scale stays.
PLIMSOLL_HOST_DEVICE inline float next_fp8_scale(float scale, float amax, Fp8Role role) {
  constexpr float kLargest = 3.402823466e+38F;
  if (!(amax > 0)) return scale;
  const float next = fp8_most(role) / amax;
  return next < kLargest ? next : kLargest;
}

// A step of one tensor: takes its maximum into the history (newest first; one that is not finite is left out), decides
// the next scale and begins a new maximum.
PLIMSOLL_HOST_DEVICE inline void advance_fp8_scale(Fp8Scaling& scaling, Fp8Role role, float* history) {
  constexpr float kInfinity = __builtin_huge_valf();
  const int at = static_cast<int>(role);
  for (int i = kFp8History - 1; i > 0; --i) history[i] = history[i - 1];
  history[0] = scaling.amax[at] < kInfinity ? scaling.amax[at] : 0.0F;
  float most = 0;
  for (int i = 0; i < kFp8History; ++i) most = history[i] > most ? history[i] : most;
  scaling.scale[at] = next_fp8_scale(scaling.scale[at], most, role);
  scaling.amax[at] = 0;
}

}  // namespace plimsoll
