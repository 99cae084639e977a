#pragma once
// `plimsoll train` and `plimsoll eval`: one rank's part of the main job.

#include <filesystem>
#include <optional>

#include "launch/bootstrap.hpp"
#include "launch/config.hpp"

namespace plimsoll {

// Trains to train.steps, from the newest checkpoint of run.dir when there is one. Collective: every rank calls it with
// the same configuration. Leaves config.yaml, plan.json, metrics.jsonl, TensorBoard events, checkpoints and
// summary.json. `plan`: a file that the run follows to the byte (run_files.hpp); empty: none.
void train(Config config, const MpiSession& mpi, const std::filesystem::path& plan = {});

// Mean loss over the validation split, all of it or its first global batches: of the newest checkpoint of run.dir, or,
// without one, of model.from. On every rank.
struct Evaluation {
  double loss = 0;
  std::int64_t targets = 0;  // that it is the mean of
  bool whole = true;         // all of the split
  std::string source;        // which weights
};
struct EvaluateOptions {
  std::optional<std::int64_t> batches;  // global batches; nullopt: the whole split
  bool quiet = false;                   // no progress
};
Evaluation evaluate(Config config, const MpiSession& mpi, const EvaluateOptions& options = {});

// The step that the run failed in, for the FATAL line; −1 outside of a step.
std::int64_t current_step();

}  // namespace plimsoll
