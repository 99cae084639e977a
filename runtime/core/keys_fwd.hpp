#pragma once
// What a header with a configuration struct needs of runtime/core/keys.hpp.

#include <array>
#include <string>
#include <string_view>
#include <vector>

namespace plimsoll {

template <class Section>
struct KeyTable;

// A contradiction between values: the key to point at ("schedule.warmup"), what is wrong with it, and the other keys
// that take part. Where one of them was unreadable, the contradiction is not reported.
struct ConfigIssue {
  std::string key;
  std::string text;
  std::vector<std::string> others = {};
};

// The spelling of an enum's value. An enum that is a key's type has a function enum_names(E) beside it.
struct EnumName {
  int value;
  std::string_view name;
};
template <class E>
constexpr EnumName named(E value, std::string_view name) {
  return {static_cast<int>(value), name};
}
// How `value` is written in a configuration.
template <class E>
constexpr std::string_view to_text(E value) requires requires {
  enum_names(value);
}
{
  for (const EnumName& n : enum_names(value)) {
    if (n.value == static_cast<int>(value)) return n.name;
  }
  return {};
}

}  // namespace plimsoll
