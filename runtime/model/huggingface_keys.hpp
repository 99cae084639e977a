#pragma once
// Reading a config.json: typed values with defaults, a record of which keys were looked at, and all complaints at once.

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace plimsoll {

class HuggingFaceKeys {
 public:
  // `object` must outlive this. `prefix` ("rope_scaling.") goes before keys in complaints, which are added to `issues`.
  HuggingFaceKeys(const nlohmann::json& object, std::string prefix, std::vector<std::string>& issues);

  // nullptr when absent or null. Looking at a key marks it as known.
  const nlohmann::json* find(std::string_view key);
  bool contains(std::string_view key) { return find(key) != nullptr; }
  // A value of another type is a complaint, and the default is returned; so is a missing value without a default.
  std::int64_t count(std::string_view key, std::optional<std::int64_t> otherwise = std::nullopt);  // at least 1
  double number(std::string_view key, std::optional<double> otherwise = std::nullopt);
  bool flag(std::string_view key, bool otherwise);
  std::string text(std::string_view key, std::string otherwise);

  void refuse(std::string_view key, std::string_view reason);
  // Complains unless the key is absent, null, false or an empty list or object.
  void refuse_unless_empty(std::string_view key, std::string_view reason);
  // Keys never looked at whose value is not null.
  std::vector<std::string> unknown() const;

 private:
  void complain(std::string_view key, std::string_view what);
  const nlohmann::json& object_;
  std::string prefix_;
  std::vector<std::string>& issues_;
  std::set<std::string, std::less<>> seen_;
};

}  // namespace plimsoll
