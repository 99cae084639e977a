#pragma once
// Checkpoint folders: <directory>/step_00000100/ with model.safetensors (Hugging Face names and layout),
// optimizer.safetensors ("exp_avg.<name>" …), state.json, config.json, copied files (tokenizer) and manifest.json.
// A folder appears by one rename when all of it is on the disk; the newest whose manifest verifies is the one to load.
// Knows nothing of graphs or ranks: what is saved comes as named tensors.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/checkpoint/safetensors.hpp"
#include "runtime/checkpoint/safetensors_writer.hpp"

namespace plimsoll {

// Where the run stands, besides tensors.
struct TrainingState {
  std::int64_t step = 0;             // completed steps
  std::int64_t applied_updates = 0;  // steps whose update was not skipped: Adam's t
  std::int64_t next_sample = 0;      // index of the next sequence in the data order
  std::int64_t tokens = 0;           // seen so far
  std::uint64_t seed = 0;
  double loss_scale = 1.0;
  std::int64_t loss_scale_streak = 0;  // updates in a row without overflow
  std::string identity;                // JSON text: which run this is of, key by key
  bool operator==(const TrainingState&) const = default;
};

struct CheckpointContents {
  std::span<const TensorSource> parameters;
  std::span<const TensorSource> optimizer;
  TrainingState state;
  std::string config_json;                          // config.json in the Hugging Face form
  std::vector<std::filesystem::path> copied_files;  // regular files, saved under their own names
};

// Saves `contents` as step `contents.state.step`, then deletes the oldest steps up to it beyond `keep` (0 keeps all). A
// folder of the same step is replaced. Returns nullopt when the step is committed, else why it is not: naming path,
// call and cause; then nothing new is left behind, and training may go on. Other errors than I/O throw.
std::optional<std::string> save_checkpoint(const std::filesystem::path& directory, const CheckpointContents& contents,
                                           std::int64_t keep);

struct LoadedCheckpoint {
  std::filesystem::path folder;
  TrainingState state;
  std::string config_json;
  SafetensorsFile parameters;
  SafetensorsFile optimizer;
};

// The newest step that verifies; for every newer one that does not, a warning names file and reason. nullopt when there
// is no step at all; Error(NoCheckpoint), with every reason, when there are some and none verifies.
std::optional<LoadedCheckpoint> newest_valid(const std::filesystem::path& directory);
// One checkpoint folder, verified. Error(NoCheckpoint) with the reason.
LoadedCheckpoint load_checkpoint(const std::filesystem::path& folder);
// Steps that have a folder, ascending, verified or not.
std::vector<std::int64_t> checkpoint_steps(const std::filesystem::path& directory);
// "step_00000100"
std::string checkpoint_folder_name(std::int64_t step);

}  // namespace plimsoll
