#pragma once
// How a folder declares its section of the configuration: a struct and a table of keys. From the table are derived
// reading with errors, writing and the documentation.
//
//   KeyTable<OptimizerConfig> optimizer_keys() {
//     using C = OptimizerConfig;
//     return {.keys = {key("lr", &C::lr, above(0), "1", "peak learning rate"), ...}};
//   }
//
// A key's default is the value in a default-constructed struct. Types: bool, int64, uint64, double, text, enums with a
// function enum_names(E) beside them, std::optional (nullopt is written `auto`), std::vector and std::array as lists.

#include <memory>
#include <string>
#include <utility>

#include "runtime/core/key_table.hpp"

namespace plimsoll {

template <class Section, class T>
Key<Section> key(std::string name, T Section::*member, Range range, std::string unit, std::string meaning) {
  return {std::move(name),
          type_name(std::type_identity<T>{}),
          std::move(unit),
          range.text(),
          std::move(meaning),
          [member, range](Section& s, const ConfigNode& node, const KeyScope& scope) {
            T value{};
            if (read_value(node, range, scope, value)) s.*member = std::move(value);
          },
          [member](const Section& s) { return write_value(s.*member); }};
}
template <class Section, class T>
Key<Section> key(std::string name, T Section::*member, std::string meaning) {
  return key(std::move(name), member, Range{}, "", std::move(meaning));
}

// A key whose value `absent` is written as a word: 0 as `auto`, an empty path as `off`.
template <class Section, class T>
Key<Section> key_or(const std::string& word, T absent, std::string name, T Section::*member, Range range,
                    std::string unit, std::string meaning) {
  Key<Section> result = key(std::move(name), member, range, std::move(unit), std::move(meaning));
  result.type = word + " | " + result.type;
  result.read = [word, absent, member, read = result.read](Section& s, const ConfigNode& node, const KeyScope& scope) {
    if (node.is_word(word)) {
      s.*member = absent;
    } else {
      read(s, node, scope);
    }
  };
  result.write = [word, absent, member, write = result.write](const Section& s) {
    return s.*member == absent ? ConfigNode::scalar(word) : write(s);
  };
  return result;
}

// A size in bytes (`512 MiB`) or `auto`.
template <class Section>
Key<Section> bytes_key(std::string name, std::optional<std::int64_t> Section::*member, Range range,
                       std::string meaning) {
  return {std::move(name),
          "auto | size",
          "bytes",
          range.text(),
          std::move(meaning),
          [member, range](Section& s, const ConfigNode& node, const KeyScope& scope) {
            read_bytes(node, range, scope, s.*member);
          },
          [member](const Section& s) { return write_bytes(s.*member); }};
}

// A section within a section.
template <class Section, class Inner>
Key<Section> section(std::string name, Inner Section::*member, KeyTable<Inner> table) {
  auto shared = std::make_shared<const KeyTable<Inner>>(std::move(table));
  return {std::move(name),
          "section",
          "",
          "",
          "",
          [member, shared](Section& s, const ConfigNode& node, const KeyScope& scope) {
            shared->read(s.*member, node, scope);
          },
          [member, shared](const Section& s) { return shared->write(s.*member); },
          [member, shared](const Section& s, const std::string& path) { return shared->describe(s.*member, path); }};
}

}  // namespace plimsoll
