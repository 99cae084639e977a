// The keys of the optimizer and schedule sections.

#include "runtime/core/keys.hpp"
#include "optim/config.hpp"

namespace plimsoll {
namespace {

KeyTable<LossScaleConfig> loss_scale_keys() {
  using C = LossScaleConfig;
  return {
      .keys = {
          key("initial", &C::initial, between(1, 0x1p24), "1", "precision: fp16: the loss scale of the first step"),
          key("window", &C::window, at_least(1), "steps",
              "precision: fp16: applied steps in a row until the loss scale doubles; a step that overflows halves it"),
      }};
}

}  // namespace

KeyTable<OptimizerConfig> optimizer_keys() {
  using C = OptimizerConfig;
  return {
      .keys = {
          key("name", &C::name, "the update rule"),
          key("lr", &C::lr, above(0), "1", "peak learning rate; the schedule multiplies it"),
          key("betas", &C::betas, from_below(0, 1), "1", "adamw: decay of the first and second moment"),
          key("eps", &C::eps, above(0), "1", "adamw: added to the root of the second moment"),
          key("weight_decay", &C::weight_decay, at_least(0), "1",
              "decay of matrices, per unit of learning rate: adamw's is decoupled, sgd's is added to the gradient"),
          key("momentum", &C::momentum, from_below(0, 1), "1", "sgd: decay of the velocity"),
          key("clip", &C::clip, at_least(0), "1", "largest global gradient norm; 0: off"),
          key("rounding", &C::rounding,
              "with precision: bf16, how an update rounds the fp32 master weights to what kernels read; stochastic: "
              "up or down by chance, right in the mean, the same on every layout"),
          section("loss_scale", &C::loss_scale, loss_scale_keys()),
      }};
}

KeyTable<ScheduleConfig> schedule_keys() {
  using C = ScheduleConfig;
  return {.keys = {
              key("name", &C::name, "the learning rate after warm-up"),
              key("warmup", &C::warmup, at_least(0), "steps", "linear rise from 0 to optimizer.lr"),
              key("min_lr", &C::min_lr, at_least(0), "1",
                  "learning rate that the decay ends at, behind the last step (the last one is a step above it); not "
                  "of constant"),
              key("decay_steps", &C::decay_steps, at_least(1), "steps",
                  "wsd: length of the decay at the end; auto: a fifth of train.steps"),
          }};
}

}  // namespace plimsoll
