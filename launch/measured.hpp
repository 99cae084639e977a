#pragma once
// What runs of this binary measured on this machine, for plans that are made without a run: files in <cache>/plimsoll,
// where <cache> is XDG_CACHE_HOME, or ~/.cache. A cache: what cannot be read or written is as if it were not there.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace plimsoll {

// Empty where there is no such folder.
std::filesystem::path cache_file(const std::string& name);
// Of this binary: a hash.
std::string build_name();

// outside.json: bytes that a process of this many ranks needs besides its arena.
void remember_outside_bytes(int ranks, std::int64_t bytes);
// As a run of this binary with this many ranks found them last, or, when there was none, with any other number.
std::optional<std::int64_t> remembered_outside_bytes(int ranks);

}  // namespace plimsoll
