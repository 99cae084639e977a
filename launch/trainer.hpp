#pragma once
// `plimsoll train` and `plimsoll eval`: one rank's part of the main job.

#include "launch/bootstrap.hpp"
#include "launch/config.hpp"

namespace plimsoll {

// Trains to train.steps, from the newest checkpoint of run.dir when there is one. Collective: every rank calls it with the same
// configuration. Leaves config.yaml, plan.json, metrics.jsonl, TensorBoard events, checkpoints and summary.json.
void train(Config config, const MpiSession& mpi);

// Mean loss over the whole validation split: of the newest checkpoint of run.dir, or of `weights` (a Hugging Face folder).
// Returns it on every rank.
struct Evaluation {
  double loss = 0;
  std::int64_t targets = 0;
  std::string source;  // which weights
};
Evaluation evaluate(Config config, const MpiSession& mpi);

// The step that the run failed in, for the FATAL line; −1 outside of a step.
std::int64_t current_step();

}  // namespace plimsoll
