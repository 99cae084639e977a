#pragma once
// A section's table of keys: reads a map over a struct, writes the struct back, and lists the keys. Tables are made
// with the functions of runtime/core/keys.hpp.

#include <functional>
#include <string>
#include <vector>

#include "runtime/core/key_values.hpp"
#include "runtime/core/keys_fwd.hpp"

namespace plimsoll {

// One line of the documentation.
struct KeyInfo {
  std::string name;  // full: "optimizer.lr"
  std::string type;
  std::string default_text;
  std::string unit;
  std::string range;
  std::string meaning;
};

template <class Section>
struct Key {
  std::string name;
  std::string type;
  std::string unit;
  std::string range;
  std::string meaning;
  std::function<void(Section&, const ConfigNode&, const KeyScope&)> read;  // reports faults to the scope
  std::function<ConfigNode(const Section&)> write;
  // Of a section in a section: its lines of the documentation.
  std::function<std::vector<KeyInfo>(const Section&, const std::string& path)> nested = {};
  bool required = false;  // has no default
};

template <class Section>
struct KeyTable {
  std::vector<Key<Section>> keys;
  // Runs before the keys are read, for values that others are laid over (model.preset).
  std::function<void(Section&, const ConfigNode&, const KeyScope&)> prepare = {};
  // Takes a section that is a single word (`parallel: auto`); false when it is not that word.
  std::function<bool(Section&, const std::string&)> word = {};
  // That word, when the section is to be written as it; else empty.
  std::function<std::string(const Section&)> as_word = {};

  // Reads a map over `section`. Unknown keys and unusable values are reported; the others are set all the same.
  void read(Section& section, const ConfigNode& node, const KeyScope& scope) const {
    if (node.kind == ConfigNode::Kind::Null) return;
    if (word && node.kind == ConfigNode::Kind::Scalar && word(section, node.text)) return;
    if (!expect_map(node, scope)) return;
    if (prepare) prepare(section, node, scope);
    for (const ConfigEntry& entry : node.entries) {
      const Key<Section>* found = nullptr;
      for (const Key<Section>& k : keys) {
        if (k.name == entry.key) found = &k;
      }
      if (found == nullptr) {
        report_unknown_key(entry, names(), scope);
      } else {
        found->read(section, entry.value, scope.child(entry.key));
      }
    }
  }

  // A map with every key, or the word.
  ConfigNode write(const Section& section) const {
    if (as_word && !as_word(section).empty()) return ConfigNode::scalar(as_word(section));
    ConfigNode map;
    map.kind = ConfigNode::Kind::Map;
    for (const Key<Section>& k : keys) map.entries.push_back({k.name, {}, k.write(section)});
    return map;
  }

  // The documentation of every key, with the values of `defaults` as defaults.
  std::vector<KeyInfo> describe(const Section& defaults, const std::string& path) const {
    std::vector<KeyInfo> rows;
    for (const Key<Section>& k : keys) {
      const std::string full = path.empty() ? k.name : path + "." + k.name;
      if (k.nested) {
        for (KeyInfo& row : k.nested(defaults, full)) rows.push_back(std::move(row));
      } else {
        rows.push_back(
            {full, k.type, k.required ? "required" : k.write(defaults).one_line(), k.unit, k.range, k.meaning});
      }
    }
    return rows;
  }

  std::vector<std::string> names() const {
    std::vector<std::string> result;
    result.reserve(keys.size());
    for (const Key<Section>& k : keys) result.push_back(k.name);
    return result;
  }
};

}  // namespace plimsoll
