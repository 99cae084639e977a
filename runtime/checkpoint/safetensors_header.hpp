#pragma once
// The header of a safetensors file: parsing under limits, and the rules of the format.

#include <map>
#include <string>

#include "runtime/checkpoint/safetensors.hpp"

namespace plimsoll {

// The format's own limit on the header.
inline constexpr std::int64_t kMaxHeaderBytes = 100'000'000;
// Ours: what the parsed header may occupy, and the longest single name or number, so that opening stays below 64 MiB.
inline constexpr std::int64_t kMaxHeaderMemory = std::int64_t{40} << 20;
inline constexpr std::int64_t kMaxTokenBytes = std::int64_t{2} << 20;

struct SafetensorsHeader {
  SafetensorsIndex tensors;
  std::map<std::string, std::string> metadata;
};

SafetensorsHeader read_safetensors_header(const File& file);

// How the format spells a type: "F32", "BF16" …
std::string_view stored_dtype_name(DType type);

// A name from a file, fit for a message: quoted, at most 120 bytes, control characters replaced.
std::string shown_name(std::string_view name);

}  // namespace plimsoll
