#pragma once
// Values of configuration keys: reading them from a tree with faults that name key and place, writing them back, and
// the names of their types. Used through runtime/core/keys.hpp.

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "runtime/core/config_node.hpp"
#include "runtime/core/keys_fwd.hpp"

namespace plimsoll {

// Bounds of numbers (of each element of a list).
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_open = false;
  bool high_open = false;
  bool contains(double value) const;
  std::string text() const;  // "> 0", "1 to 16", "0 <= x < 1", or empty without bounds
};
constexpr Range above(double low) { return {.low = low, .low_open = true}; }
constexpr Range at_least(double low) { return {.low = low}; }
constexpr Range between(double low, double high) { return {.low = low, .high = high}; }
constexpr Range from_below(double low, double high) {
  return {.low = low, .high = high, .high_open = true};
}  // high excluded

// The key being read, and where its faults go.
struct KeyScope {
  std::string path;  // "optimizer.lr"
  ConfigErrors* errors = nullptr;
  const std::vector<std::string>* all_keys =
      nullptr;  // full names, to find a key that is in the wrong section; may be null

  KeyScope child(const std::string& name) const { return {path.empty() ? name : path + "." + name, errors, all_keys}; }
  // Reports `path: text` at the node. Always false, so that readers can return it.
  bool fault(const ConfigNode& node, const std::string& text) const;
};

// Each reader sets `out` and returns true, or reports a fault and returns false.
bool read_value(const ConfigNode& node, const Range& range, const KeyScope& scope, bool& out);
bool read_value(const ConfigNode& node, const Range& range, const KeyScope& scope, std::int64_t& out);
bool read_value(const ConfigNode& node, const Range& range, const KeyScope& scope, std::uint64_t& out);
bool read_value(const ConfigNode& node, const Range& range, const KeyScope& scope, double& out);
bool read_value(const ConfigNode& node, const Range& range, const KeyScope& scope, std::string& out);
bool read_enum(const ConfigNode& node, std::span<const EnumName> names, const KeyScope& scope, int& out);
bool read_bytes(const ConfigNode& node, const Range& range, const KeyScope& scope, std::optional<std::int64_t>& out);
bool expect_list(const ConfigNode& node, const KeyScope& scope);
bool expect_map(const ConfigNode& node, const KeyScope& scope);
void report_unknown_key(const ConfigEntry& entry, std::span<const std::string> names, const KeyScope& scope);

ConfigNode write_value(bool value);
ConfigNode write_value(std::int64_t value);
ConfigNode write_value(std::uint64_t value);
ConfigNode write_value(double value);
ConfigNode write_value(const std::string& value);
ConfigNode write_bytes(const std::optional<std::int64_t>& value);
std::string enum_type(std::span<const EnumName> names);
std::string_view enum_text(std::span<const EnumName> names, int value);

inline std::string type_name(std::type_identity<bool>) { return "true | false"; }
inline std::string type_name(std::type_identity<std::int64_t>) { return "integer"; }
inline std::string type_name(std::type_identity<std::uint64_t>) { return "integer"; }
inline std::string type_name(std::type_identity<double>) { return "number"; }
inline std::string type_name(std::type_identity<std::string>) { return "text"; }

template <class E>
concept NamedEnum = std::is_enum_v<E> && requires(E e) {
  enum_names(e);
};

template <NamedEnum E>
bool read_value(const ConfigNode& node, const Range&, const KeyScope& scope, E& out) {
  const auto names = enum_names(E{});
  int value = 0;
  if (!read_enum(node, names, scope, value)) return false;
  out = static_cast<E>(value);
  return true;
}
template <NamedEnum E>
ConfigNode write_value(E value) {
  const auto names = enum_names(E{});
  return ConfigNode::scalar(std::string(enum_text(names, static_cast<int>(value))));
}
template <NamedEnum E>
std::string type_name(std::type_identity<E>) {
  const auto names = enum_names(E{});
  return enum_type(names);
}

template <class T>
bool read_value(const ConfigNode& node, const Range& range, const KeyScope& scope, std::optional<T>& out) {
  out.reset();
  if (node.is_word("auto")) return true;
  return read_value(node, range, scope, out.emplace());
}
template <class T>
ConfigNode write_value(const std::optional<T>& value) {
  return value ? write_value(*value) : ConfigNode::scalar("auto");
}
template <class T>
std::string type_name(std::type_identity<std::optional<T>>) {
  return "auto | " + type_name(std::type_identity<T>{});
}

template <class T, std::size_t N>
bool read_value(const ConfigNode& node, const Range& range, const KeyScope& scope, std::array<T, N>& out) {
  if (!expect_list(node, scope)) return false;
  if (node.items.size() != N) {
    return scope.fault(node, "expected " + std::to_string(N) + " values, got " + std::to_string(node.items.size()));
  }
  bool good = true;
  for (std::size_t i = 0; i < N; ++i) good = read_value(node.items[i], range, scope, out[i]) && good;
  return good;
}
template <class T, std::size_t N>
ConfigNode write_value(const std::array<T, N>& values) {
  std::vector<ConfigNode> items;
  for (const T& value : values) items.push_back(write_value(value));
  return ConfigNode::list(std::move(items));
}
template <class T, std::size_t N>
std::string type_name(std::type_identity<std::array<T, N>>) {
  return "list of " + std::to_string(N) + " " + type_name(std::type_identity<T>{}) + "s";
}

}  // namespace plimsoll
