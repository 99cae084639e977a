#include "runtime/model/huggingface_keys.hpp"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

namespace plimsoll {
namespace {

// Sizes are far below this; a larger one would overflow products of sizes.
constexpr std::int64_t kMaxCount = std::int64_t{1} << 31;

std::string shown(const nlohmann::json& value) {
  std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return text;
}

}  // namespace

HuggingFaceKeys::HuggingFaceKeys(const nlohmann::json& object, std::string prefix, std::vector<std::string>& issues)
    : object_(object), prefix_(std::move(prefix)), issues_(issues) {}

const nlohmann::json* HuggingFaceKeys::find(std::string_view key) {
  seen_.emplace(key);
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

void HuggingFaceKeys::complain(std::string_view key, std::string_view what) {
  issues_.push_back(fmt::format("{}{}: {}", prefix_, key, what));
}

void HuggingFaceKeys::refuse(std::string_view key, std::string_view reason) {
  const nlohmann::json* value = find(key);
  complain(key, fmt::format("{}: {}", value == nullptr ? "null" : shown(*value), reason));
}

void HuggingFaceKeys::refuse_unless_empty(std::string_view key, std::string_view reason) {
  const nlohmann::json* value = find(key);
  if (value == nullptr || (value->is_structured() && value->empty()) || *value == nlohmann::json(false)) return;
  refuse(key, reason);
}

std::int64_t HuggingFaceKeys::count(std::string_view key, std::optional<std::int64_t> otherwise) {
  const nlohmann::json* value = find(key);
  if (value == nullptr) {
    if (!otherwise) complain(key, "is missing");
    return otherwise.value_or(1);
  }
  // A 64-bit number above the signed range comes out negative here, and is refused as it should be.
  const std::int64_t number = value->is_number_integer() ? value->get<std::int64_t>() : 0;
  if (number >= 1 && number <= kMaxCount) return number;
  refuse(key, "must be a positive integer, at most 2^31");
  return otherwise.value_or(1);
}

double HuggingFaceKeys::number(std::string_view key, std::optional<double> otherwise) {
  const nlohmann::json* value = find(key);
  if (value == nullptr) {
    if (!otherwise) complain(key, "is missing");
    return otherwise.value_or(1.0);
  }
  if (value->is_number() && std::isfinite(value->get<double>())) return value->get<double>();
  refuse(key, "must be a number");
  return otherwise.value_or(1.0);
}

bool HuggingFaceKeys::flag(std::string_view key, bool otherwise) {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return otherwise;
  if (value->is_boolean()) return value->get<bool>();
  refuse(key, "must be true or false");
  return otherwise;
}

std::string HuggingFaceKeys::text(std::string_view key, std::string otherwise) {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return otherwise;
  if (value->is_string()) return value->get<std::string>();
  refuse(key, "must be a string");
  return otherwise;
}

std::vector<std::string> HuggingFaceKeys::unknown() const {
  std::vector<std::string> names;
  for (const auto& [key, value] : object_.items())
    if (!value.is_null() && !seen_.contains(key)) names.push_back(prefix_ + key);
  return names;
}

}  // namespace plimsoll
