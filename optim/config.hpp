#pragma once
// The optimizer and schedule sections of a configuration.

#include <array>
#include <cstdint>
#include <optional>

#include "runtime/core/keys_fwd.hpp"

namespace plimsoll {

enum class OptimizerName { AdamW, Sgd };
constexpr std::array<EnumName, 2> enum_names(OptimizerName) {
  return {named(OptimizerName::AdamW, "adamw"), named(OptimizerName::Sgd, "sgd")};
}

// Of parameters that kernels read in bf16, from their master weights.
enum class WeightRounding { Nearest, Stochastic };
constexpr std::array<EnumName, 2> enum_names(WeightRounding) {
  return {named(WeightRounding::Nearest, "nearest"), named(WeightRounding::Stochastic, "stochastic")};
}

// Of fp16, see optim/loss_scale.hpp.
struct LossScaleConfig {
  double initial = 65536;
  std::int64_t window = 2000;  // applied steps in a row until it doubles
  bool operator==(const LossScaleConfig&) const = default;
};

struct OptimizerConfig {
  OptimizerName name = OptimizerName::AdamW;
  double lr = 1e-3;                        // peak; the schedule multiplies it
  std::array<double, 2> betas{0.9, 0.95};  // adamw
  double eps = 1e-8;                       // adamw
  double weight_decay = 0.1;               // of matrices, not of biases and norms; sgd: not decoupled
  double momentum = 0.0;                   // sgd
  double clip = 1.0;                       // global gradient norm; 0: off
  WeightRounding rounding = WeightRounding::Nearest;
  LossScaleConfig loss_scale;
  bool operator==(const OptimizerConfig&) const = default;
};

enum class ScheduleName { Constant, Linear, Cosine, Wsd };
constexpr std::array<EnumName, 4> enum_names(ScheduleName) {
  return {named(ScheduleName::Constant, "constant"), named(ScheduleName::Linear, "linear"),
          named(ScheduleName::Cosine, "cosine"), named(ScheduleName::Wsd, "wsd")};
}

// The learning rate by step: linear warm-up to optimizer.lr, then by name. linear and cosine fall to min_lr at
// train.steps, which the last step is one before; wsd (warm-up, stable, decay) stays and falls over decay_steps.
struct ScheduleConfig {
  ScheduleName name = ScheduleName::Cosine;
  std::int64_t warmup = 0;  // steps
  double min_lr = 0.0;
  std::optional<std::int64_t> decay_steps;  // wsd only; nullopt: auto, a fifth of train.steps
  bool operator==(const ScheduleConfig&) const = default;
};

KeyTable<OptimizerConfig> optimizer_keys();
KeyTable<ScheduleConfig> schedule_keys();

}  // namespace plimsoll
