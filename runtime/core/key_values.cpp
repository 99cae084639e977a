#include "runtime/core/key_values.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "runtime/core/text.hpp"

namespace plimsoll {
namespace {

// The whole text as a number, or nothing.
template <class T>
std::optional<T> parse_number(const std::string& text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

template <class T>
bool read_number(const ConfigNode& node, const Range& range, const KeyScope& scope, std::string_view expected, T& out) {
  std::optional<T> value;
  if (node.kind == ConfigNode::Kind::Scalar && !node.quoted) value = parse_number<T>(node.text);
  if (!value || !std::isfinite(static_cast<double>(*value))) {
    return scope.fault(node, fmt::format("expected {}, got {}", expected, describe_value(node)));
  }
  if (!range.contains(static_cast<double>(*value))) {
    return scope.fault(node, fmt::format("{} is out of range ({})", node.text, range.text()));
  }
  out = *value;
  return true;
}

}  // namespace

bool Range::contains(double value) const {
  return (low_open ? value > low : value >= low) && (high_open ? value < high : value <= high);
}

std::string Range::text() const {
  const bool has_low = std::isfinite(low);
  const bool has_high = std::isfinite(high);
  if (has_low && has_high) {
    if (!low_open && !high_open) return fmt::format("{} to {}", low, high);
    return fmt::format("{} {} x {} {}", low, low_open ? "<" : "<=", high_open ? "<" : "<=", high);
  }
  if (has_low) return fmt::format("{} {}", low_open ? ">" : ">=", low);
  if (has_high) return fmt::format("{} {}", high_open ? "<" : "<=", high);
  return {};
}

bool KeyScope::fault(const ConfigNode& node, const std::string& text) const {
  errors->add_value(node.place, path, text);
  return false;
}

bool read_value(const ConfigNode& node, const Range&, const KeyScope& scope, bool& out) {
  if (node.is_word("true") || node.is_word("false")) {
    out = node.text == "true";
    return true;
  }
  return scope.fault(node, fmt::format("expected true or false, got {}", describe_value(node)));
}

bool read_value(const ConfigNode& node, const Range& range, const KeyScope& scope, std::int64_t& out) {
  return read_number(node, range, scope, "an integer", out);
}
bool read_value(const ConfigNode& node, const Range& range, const KeyScope& scope, std::uint64_t& out) {
  return read_number(node, range, scope, "an integer from 0 to 18446744073709551615", out);
}
bool read_value(const ConfigNode& node, const Range& range, const KeyScope& scope, double& out) {
  return read_number(node, range, scope, "a number", out);
}

bool read_value(const ConfigNode& node, const Range&, const KeyScope& scope, std::string& out) {
  if (node.kind != ConfigNode::Kind::Scalar)
    return scope.fault(node, fmt::format("expected text, got {}", describe_value(node)));
  if (node.text.empty()) return scope.fault(node, "the text is empty");
  if (node.text.find('\0') != std::string::npos) return scope.fault(node, "the text contains a NUL character");
  out = node.text;
  return true;
}

bool read_enum(const ConfigNode& node, std::span<const EnumName> names, const KeyScope& scope, int& out) {
  if (node.kind == ConfigNode::Kind::Scalar) {
    for (const EnumName& n : names) {
      if (n.name != node.text) continue;
      out = n.value;
      return true;
    }
  }
  std::vector<std::string> candidates;
  for (const EnumName& n : names) candidates.emplace_back(n.name);
  const auto near = node.kind == ConfigNode::Kind::Scalar ? nearest_name(node.text, candidates) : std::nullopt;
  return scope.fault(node, fmt::format("expected {}, got {}{}", enum_type(names), describe_value(node),
                                       near ? fmt::format(" (did you mean '{}'?)", *near) : ""));
}

bool read_bytes(const ConfigNode& node, const Range& range, const KeyScope& scope, std::optional<std::int64_t>& out) {
  if (node.is_word("auto")) {
    out.reset();
    return true;
  }
  const auto bytes = node.kind == ConfigNode::Kind::Scalar ? parse_bytes(node.text) : std::nullopt;
  if (!bytes) {
    return scope.fault(node, fmt::format("expected auto or a size such as '512 MiB', got {}", describe_value(node)));
  }
  if (!range.contains(static_cast<double>(*bytes))) {
    return scope.fault(node, fmt::format("{} is out of range ({} bytes)", node.text, range.text()));
  }
  out = bytes;
  return true;
}

bool expect_list(const ConfigNode& node, const KeyScope& scope) {
  if (node.kind == ConfigNode::Kind::List) return true;
  return scope.fault(node, fmt::format("expected a list, got {}", describe_value(node)));
}

bool expect_map(const ConfigNode& node, const KeyScope& scope) {
  if (node.kind == ConfigNode::Kind::Map) return true;
  return scope.fault(node, fmt::format("expected a map of keys, got {}", describe_value(node)));
}

void report_unknown_key(const ConfigEntry& entry, std::span<const std::string> names, const KeyScope& scope) {
  std::optional<std::string> hint = nearest_name(entry.key, names);
  for (const std::string& full : hint || scope.all_keys == nullptr ? std::vector<std::string>{} : *scope.all_keys) {
    if (full.ends_with("." + entry.key)) hint = full;
  }
  const std::string where = scope.path.empty() ? "" : fmt::format(" in '{}'", scope.path);
  const std::string help =
      hint ? fmt::format("did you mean '{}'?", *hint) : fmt::format("known: {}", join(names, ", "));
  scope.errors->add(entry.place, fmt::format("unknown key {}{} ({})", quote_text(entry.key), where, help));
}

ConfigNode write_value(bool value) { return ConfigNode::scalar(value ? "true" : "false"); }
ConfigNode write_value(std::int64_t value) { return ConfigNode::scalar(std::to_string(value)); }
ConfigNode write_value(std::uint64_t value) { return ConfigNode::scalar(std::to_string(value)); }
ConfigNode write_value(double value) { return ConfigNode::scalar(fmt::format("{}", value)); }

ConfigNode write_value(const std::string& value) {
  constexpr std::array<std::string_view, 5> kWords{"auto", "none", "off", "null", "~"};
  const bool ambiguous = std::find(kWords.begin(), kWords.end(), value) != kWords.end() || parse_number<double>(value);
  return ConfigNode::scalar(value, ambiguous);
}

ConfigNode write_bytes(const std::optional<std::int64_t>& value) {
  if (!value) return ConfigNode::scalar("auto");
  for (const auto& [factor, unit] : {std::pair{std::int64_t{1} << 30, "GiB"}, {std::int64_t{1} << 20, "MiB"}}) {
    if (*value != 0 && *value % factor == 0) return ConfigNode::scalar(fmt::format("{} {}", *value / factor, unit));
  }
  return ConfigNode::scalar(std::to_string(*value));
}

std::string enum_type(std::span<const EnumName> names) {
  std::vector<std::string_view> texts;
  for (const EnumName& n : names) texts.push_back(n.name);
  return fmt::format("{}", fmt::join(texts, " | "));
}

std::string_view enum_text(std::span<const EnumName> names, int value) {
  const auto found = std::find_if(names.begin(), names.end(), [&](const EnumName& n) { return n.value == value; });
  return found == names.end() ? std::string_view{} : found->name;
}

}  // namespace plimsoll
