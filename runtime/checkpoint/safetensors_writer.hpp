#pragma once
// Writing safetensors files: tensors by falling element size, then by name, so that every one is aligned; the header is
// padded to 8 bytes. A tensor passes through in pieces; nothing of its size is allocated.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>

#include "runtime/tensor/spec.hpp"

namespace plimsoll {

// A named tensor in host memory, or one whose bytes [offset, offset + out.size()) `produce` writes to `out` when asked;
// it is asked for consecutive pieces. The caller owns the memory.
struct TensorSource {
  std::string name;
  TensorSpec spec;
  const void* data = nullptr;
  std::function<void(std::int64_t offset, std::span<std::byte> out)> produce = nullptr;
};

struct WrittenFile {
  std::int64_t bytes = 0;
  std::string checksum;                        // of the file, see checksum.hpp
  std::map<std::string, std::string> tensors;  // checksum by tensor name
};

using SafetensorsMetadata = std::map<std::string, std::string>;

// Writes `path`, which must not exist, and synchronises it. Error(CheckpointIo) names the path and the cause.
WrittenFile create_safetensors(const std::filesystem::path& path, std::span<const TensorSource> tensors,
                               const SafetensorsMetadata& metadata = {{"format", "pt"}});
// The same beside `path`, then renamed over it: readers see the old file or the whole new one.
WrittenFile write_safetensors(const std::filesystem::path& path, std::span<const TensorSource> tensors,
                              const SafetensorsMetadata& metadata = {{"format", "pt"}});

}  // namespace plimsoll
