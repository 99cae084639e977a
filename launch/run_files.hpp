#pragma once
// What a run leaves on disk besides its metrics: configuration, plan, checkpoints.

#include <filesystem>
#include <optional>

#include "launch/config.hpp"
#include "launch/engine.hpp"
#include "runtime/checkpoint/checkpoint.hpp"
#include "runtime/data/tokenizer.hpp"

namespace plimsoll {

std::filesystem::path checkpoint_folder(const Config& config);

// Writes config.yaml, with what was chosen for its `auto` as comments, and plan.json (temp + rename).
// Error(CheckpointIo).
void write_run_files(const Config& config, const Choices& choices, const std::string& plan);

// Saves parameters, moments, scales of fp8, model config, tokenizer and state; keeps the newest run.keep. Rank 0 writes
// what it gathers from all; collective. nullopt, or (on rank 0) what went wrong.
std::optional<std::string> save_run(const Config& config, Engine& engine, const Group& world,
                                    const TrainingState& state);

// Loads the newest valid checkpoint into the engine, with the moments when it trains; nullopt when there is none at
// all. Error(NoCheckpoint) when none is valid, Error(Config) when it is of another run (run_identity.hpp).
std::optional<TrainingState> load_run(const Config& config, Engine& engine);

// What `generate` continues with: a run directory (its newest checkpoint), a configuration file (of such a run) or a
// Hugging Face folder. The tokenizer is the one kept in the checkpoint, or that of `tokenizer`, or of the configured
// data; a model of 257 or 256 ids without one speaks bytes. Error(Config) naming keys of the model, in the
// configuration or the overrides, that contradict the weights.
struct GenerationSource {
  Config config;  // its model has a vocabulary
  std::filesystem::path weights;
  std::unique_ptr<Tokenizer> tokenizer;
};
GenerationSource open_generation_source(const std::string& source, std::span<const std::string> overrides,
                                        const std::string& tokenizer);

// The folder with the weights of a run directory (its newest checkpoint), or `from` itself when it holds weights.
std::filesystem::path weights_folder(const std::filesystem::path& from);

}  // namespace plimsoll
