#include "runtime/checkpoint/json_file.hpp"

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "runtime/checkpoint/safetensors_header.hpp"
#include "runtime/core/error.hpp"

namespace plimsoll {

std::string read_text_file(const std::filesystem::path& path, Links links, std::int64_t max_bytes) {
  const File file = File::open_regular(path, links);
  require(file.size() <= max_bytes, ErrorKind::BadData, "{}: has {} bytes, more than the {} allowed", path.string(),
          file.size(), max_bytes);
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  file.read_at(text.data(), file.size(), 0);
  return text;
}

nlohmann::json read_json_file(const std::filesystem::path& path, Links links, std::int64_t max_bytes) {
  return parse_json(read_text_file(path, links, max_bytes), path.string());
}

nlohmann::json parse_json(std::string_view text, std::string_view name) {
  constexpr int kMaxDepth = 16;
  using Event = nlohmann::json::parse_event_t;
  // The parser would silently keep the last of two equal keys.
  std::vector<std::set<std::string>> keys;
  const auto check = [&](int depth, Event event, nlohmann::json& value) {
    require(depth <= kMaxDepth, ErrorKind::BadData, "{}: is nested more than {} deep", name, kMaxDepth);
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key) {
      const auto& key = value.get_ref<const std::string&>();
      require(keys.back().insert(key).second, ErrorKind::BadData, "{}: key {} appears twice", name, shown_name(key));
    }
    return true;
  };
  // NUL would end the text early, unseen.
  require(text.find('\0') == std::string_view::npos, ErrorKind::BadData, "{}: holds a NUL byte", name);
  try {
    return nlohmann::json::parse(text, check);
  } catch (const nlohmann::json::exception& error) {
    fail(ErrorKind::BadData, "{}: is not valid JSON: {:.300}", name, error.what());
  }
}

}  // namespace plimsoll
