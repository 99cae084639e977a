#pragma once
// UTF-8 as RFC 3629 defines it: no overlong forms, no surrogates, nothing above U+10FFFF.

#include <cstddef>
#include <string>
#include <string_view>

namespace plimsoll {

struct CodePoint {
  char32_t value = 0;
  int bytes = 0;  // 0: the text does not start with a valid code point
};

CodePoint utf8_first(std::string_view text);
// Length in bytes of the longest valid beginning of `text`.
std::size_t utf8_valid_prefix(std::string_view text);
// The largest n ≤ limit such that cutting `text` after n bytes does not split a code point (for any bytes; n ≥ limit −
// 3).
std::size_t utf8_cut(std::string_view text, std::size_t limit);
void utf8_append(std::string& text, char32_t value);
constexpr bool is_scalar_value(char32_t value) { return value < 0xD800 || (value > 0xDFFF && value <= 0x10FFFF); }

}  // namespace plimsoll
