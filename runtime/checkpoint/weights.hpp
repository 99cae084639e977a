#pragma once
// The weights of a Hugging Face folder: model.safetensors, or the shards named by model.safetensors.index.json. An
// index may name files of its own folder only: regular ones, or links to such (huggingface_hub's cache has links).

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/checkpoint/safetensors.hpp"

namespace plimsoll {

class HuggingFaceWeights {
 public:
  // MissingInput when the folder has no weights or a shard is missing; BadData when a file is malformed.
  static HuggingFaceWeights open(const std::filesystem::path& folder);

  const std::filesystem::path& folder() const { return folder_; }
  // The name under which `name` is stored: itself, or without or with the prefix "transformer." or "model.", which some
  // files lack; nullopt when there is no such tensor.
  std::optional<std::string> stored_name(std::string_view name) const;
  bool contains(std::string_view name) const { return stored_name(name).has_value(); }
  // Stored names, sorted, without the buffers (masks, inverse frequencies) that old files carry.
  std::vector<std::string> parameter_names() const;
  // Those of parameter_names() that no name in `wanted` finds: weights that would be ignored.
  std::vector<std::string> unread(std::span<const std::string> wanted) const;
  // Elements of all parameters.
  std::int64_t parameter_elements() const;

  // As SafetensorsFile; a tensor that is not there is BadData naming it and the folder.
  TensorSpec spec(std::string_view name) const;
  void read_into(std::string_view name, const View& out) const;
  void read_elements(std::string_view name, std::int64_t first, std::int64_t count, DType type, void* out) const;

 private:
  HuggingFaceWeights() = default;
  void open_shards(const std::filesystem::path& index);
  std::pair<const SafetensorsFile*, std::string> find(std::string_view name) const;

  std::filesystem::path folder_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::size_t, std::less<>> file_of_;  // by stored name
};

}  // namespace plimsoll
