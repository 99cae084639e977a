#include "launch/measured.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "launch/process.hpp"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

fs::path outside_file() { return cache_file("outside.json"); }

// {"build": hash, "outside_bytes": {"<ranks>": bytes}}; empty when it is of another build.
nlohmann::json read_cache(const std::string& build) {
  std::ifstream in(outside_file());
  nlohmann::json cache = nlohmann::json::parse(in, nullptr, false);
  const bool fits = cache.is_object() && cache.value("build", nlohmann::json()) == build &&
                    cache.contains("outside_bytes") && cache["outside_bytes"].is_object();
  return fits ? cache : nlohmann::json{{"build", build}, {"outside_bytes", nlohmann::json::object()}};
}

}  // namespace

fs::path cache_file(const std::string& name) {
  const auto folder = [](const char* variable) {
    const char* value = std::getenv(variable);
    return fs::path(value != nullptr ? value : "");
  };
  const fs::path cache = folder("XDG_CACHE_HOME"), home = folder("HOME");
  if (cache.is_absolute()) return cache / "plimsoll" / name;
  return home.is_absolute() ? home / ".cache/plimsoll" / name : fs::path();
}

std::string build_name() { return fmt::format("{:016x}", hash_of_binary()); }

void remember_outside_bytes(int ranks, std::int64_t bytes) {
  const fs::path file = outside_file();
  if (file.empty()) return;
  nlohmann::json cache = read_cache(build_name());
  cache["outside_bytes"][std::to_string(ranks)] = bytes;
  std::error_code ignored;
  fs::create_directories(file.parent_path(), ignored);
  const fs::path temporary = file.string() + fmt::format(".{}.tmp", getpid());
  {
    std::ofstream out(temporary);
    out << cache.dump(2) << "\n";
    if (!out.flush()) {
      fs::remove(temporary, ignored);
      return;
    }
  }
  fs::rename(temporary, file, ignored);
}

std::optional<std::int64_t> remembered_outside_bytes(int ranks) {
  const fs::path file = outside_file();
  if (file.empty() || !fs::exists(file)) return std::nullopt;
  const nlohmann::json cache = read_cache(build_name());
  std::optional<std::int64_t> largest;
  for (const auto& item : cache["outside_bytes"].items()) {
    if (!item.value().is_number_integer()) continue;
    const auto bytes = item.value().get<std::int64_t>();
    if (item.key() == std::to_string(ranks)) return bytes;
    largest = std::max(largest.value_or(0), bytes);
  }
  return largest;
}

}  // namespace plimsoll
