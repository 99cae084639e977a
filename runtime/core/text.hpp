#pragma once
// Small text helpers: byte sizes as people write them, and the nearest of some names to a mistyped one.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace plimsoll {

// "512", "512 B", "1.5 GiB", "2GB", "64 MiB" → bytes (KiB = 1024, KB = 1000). nullopt when it is not a size.
std::optional<std::int64_t> parse_bytes(std::string_view text);
// 1610612736 → "1.50 GiB"; below 1 KiB "123 B".
std::string format_bytes(std::int64_t bytes);
// 0.0123 → "12.3 ms"; from 10 s on "12.3 s".
std::string format_seconds(double seconds);
// 12345678 → "12,345,678".
std::string format_count(std::int64_t value);
// The candidate with the smallest edit distance, when that is at most a third of the name's length (at least 1, at most
// 4).
std::optional<std::string> nearest_name(std::string_view name, std::span<const std::string> candidates);
std::string join(std::span<const std::string> parts, std::string_view separator);

}  // namespace plimsoll
