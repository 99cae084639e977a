#pragma once
// manifest.json of a checkpoint folder: size and checksum of every file and of every tensor, and a checksum of itself.
// A checkpoint is what its manifest says; what the manifest does not verify is not loaded.

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/checkpoint/safetensors_writer.hpp"

namespace plimsoll {

inline constexpr std::string_view kManifestFile = "manifest.json";

struct Manifest {
  std::int64_t step = 0;
  std::map<std::string, WrittenFile> files;  // by name within the folder
};

// The text of manifest.json.
std::string manifest_text(const Manifest& manifest);
// What is wrong with the checkpoint of `step` in `folder`, naming file and (for a damaged tensor) tensor; nullopt when
// every file has the size and the checksum of the manifest.
std::optional<std::string> checkpoint_fault(const std::filesystem::path& folder, std::int64_t step);

}  // namespace plimsoll
