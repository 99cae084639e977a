#include "runtime/core/config_node.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

namespace plimsoll {

std::string ConfigPlace::text() const {
  const std::string name = source ? *source : std::string("config");
  return line > 0 ? fmt::format("{}:{}:{}", name, line, column) : name;
}

ConfigNode ConfigNode::scalar(std::string text, bool quoted) {
  ConfigNode node;
  node.kind = Kind::Scalar;
  node.text = std::move(text);
  node.quoted = quoted;
  return node;
}

ConfigNode ConfigNode::list(std::vector<ConfigNode> items) {
  ConfigNode node;
  node.kind = Kind::List;
  node.items = std::move(items);
  return node;
}

const ConfigEntry* ConfigNode::entry(std::string_view key) const {
  const auto found = std::find_if(entries.begin(), entries.end(), [&](const ConfigEntry& e) { return e.key == key; });
  return found == entries.end() ? nullptr : &*found;
}

ConfigPlace ConfigNode::place_of(std::string_view path) const {
  const std::string_view head = path.substr(0, path.find('.'));
  const ConfigEntry* child = path.empty() ? nullptr : entry(head);
  if (child == nullptr) return place;
  if (head.size() == path.size()) return child->value.place;
  // An ancestor stands for an absent key: point at its name, which is easier to find than its first value.
  const std::string_view rest = path.substr(head.size() + 1);
  return child->value.entry(rest.substr(0, rest.find('.'))) != nullptr ? child->value.place_of(rest) : child->place;
}

std::string ConfigNode::one_line() const {
  switch (kind) {
    case Kind::Null: return "null";
    case Kind::Scalar: return text;
    case Kind::List: {
      std::vector<std::string> parts;
      for (const ConfigNode& item : items) parts.push_back(item.one_line());
      return fmt::format("[{}]", fmt::join(parts, ", "));
    }
    case Kind::Map: {
      std::vector<std::string> parts;
      for (const ConfigEntry& e : entries) parts.push_back(fmt::format("{}: {}", e.key, e.value.one_line()));
      return fmt::format("{{{}}}", fmt::join(parts, ", "));
    }
  }
  return {};
}

std::vector<std::pair<std::string, std::string>> ConfigNode::values(const std::string& prefix) const {
  if (kind != Kind::Map) return {{prefix, one_line()}};
  std::vector<std::pair<std::string, std::string>> all;
  for (const ConfigEntry& e : entries) {
    for (auto& value : e.value.values(prefix.empty() ? e.key : prefix + "." + e.key)) all.push_back(std::move(value));
  }
  return all;
}

std::string quote_text(std::string_view text) {
  constexpr std::size_t kMost = 60;
  std::string shown;
  for (const char c : text.substr(0, kMost)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F) {
      shown += fmt::format("\\x{:02x}", byte);
    } else {
      shown += c;
    }
  }
  return fmt::format("'{}{}'", shown, text.size() > kMost ? "..." : "");
}

std::string describe_value(const ConfigNode& node) {
  switch (node.kind) {
    case ConfigNode::Kind::Null: return "nothing";
    case ConfigNode::Kind::Scalar:
      return node.quoted ? "the quoted text " + quote_text(node.text) : quote_text(node.text);
    case ConfigNode::Kind::List: return "a list";
    case ConfigNode::Kind::Map: return "a map";
  }
  return {};
}

void ConfigErrors::add(const ConfigPlace& place, std::string text) { faults_.push_back({place, std::move(text)}); }

void ConfigErrors::add_value(const ConfigPlace& place, const std::string& key, const std::string& text) {
  add(place, key.empty() ? text : key + ": " + text);
  unreadable_.push_back(key);
}

bool ConfigErrors::unreadable(std::string_view key) const {
  return std::any_of(unreadable_.begin(), unreadable_.end(), [&](const std::string& path) {
    return key.starts_with(path) && (key.size() == path.size() || key[path.size()] == '.');
  });
}

std::string ConfigErrors::text() const {
  std::vector<Fault> sorted = faults_;
  // Files first, then overrides (line 0), each in its own order.
  std::stable_sort(sorted.begin(), sorted.end(), [](const Fault& a, const Fault& b) {
    return std::tuple(a.place.line == 0, a.place.line, a.place.column) <
           std::tuple(b.place.line == 0, b.place.line, b.place.column);
  });
  std::vector<std::string> lines;
  for (const Fault& fault : sorted) {
    if (lines.size() == kMostLines) {
      lines.push_back(fmt::format("and {} more faults", sorted.size() - kMostLines));
      break;
    }
    lines.push_back(fmt::format("{}: {}", fault.place.text(), fault.text));
  }
  return fmt::format("{}", fmt::join(lines, "\n"));
}

}  // namespace plimsoll
