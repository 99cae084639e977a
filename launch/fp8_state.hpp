#pragma once
// The fp8 scales of a run in its checkpoints: one f32 tensor [layers, linears of a layer, roles, 1 + history], a scale
// and the maximums that it follows from (runtime/ops/fp8_scaling.hpp). It knows no rank, so that another layout of
// ranks reads it.

#include "launch/engine.hpp"
#include "runtime/checkpoint/safetensors.hpp"

namespace plimsoll {

inline constexpr std::string_view kFp8StateName = "fp8_scaling";

struct Fp8State {
  Shape shape;
  std::vector<float> numbers;
};

// Of all ranks; collective over `world`. nullopt where the run has no fp8 linears.
std::optional<Fp8State> gather_fp8_state(Engine& engine, const ModelConfig& model, const Group& world);

// Into the engine, where it trains in fp8. Error(BadData) when the tensor is missing, Error(NoCheckpoint) when it is of
// another shape.
void read_fp8_state(Engine& engine, const ModelConfig& model, const SafetensorsFile& file);

// Forgets what was measured since the last update: of micro-batches that are no part of a step. The scales stay.
void forget_fp8_maximums(Engine& engine);

}  // namespace plimsoll
