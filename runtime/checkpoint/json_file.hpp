#pragma once
// Small JSON files from outside (config.json, an index, a manifest), read under limits: a size, a depth of 16, no key
// twice in one object. Violations are Error(BadData) naming the file and the place.

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "runtime/checkpoint/file.hpp"

namespace plimsoll {

inline constexpr std::int64_t kMaxJsonBytes = std::int64_t{1} << 20;

// MissingInput when there is no such file.
nlohmann::json read_json_file(const std::filesystem::path& path, Links links = Links::Follow,
                              std::int64_t max_bytes = kMaxJsonBytes);
// The text of a small regular file.
std::string read_text_file(const std::filesystem::path& path, Links links = Links::Follow,
                           std::int64_t max_bytes = kMaxJsonBytes);
// `name` stands for the file in messages.
nlohmann::json parse_json(std::string_view text, std::string_view name);

}  // namespace plimsoll
