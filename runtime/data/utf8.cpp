#include "runtime/data/utf8.hpp"

#include <algorithm>
#include <array>

namespace plimsoll {
namespace {

// Bytes that a sequence with this first byte has; 0 for a byte that starts none.
int sequence_bytes(unsigned char first) {
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return 2;
  if (first >= 0xE0 && first <= 0xEF) return 3;
  if (first >= 0xF0 && first <= 0xF4) return 4;
  return 0;
}

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U; }

}  // namespace

CodePoint utf8_first(std::string_view text) {
  if (text.empty()) return {};
  const auto first = static_cast<unsigned char>(text[0]);
  const int bytes = sequence_bytes(first);
  if (bytes == 1) return {first, 1};
  if (bytes == 0 || text.size() < static_cast<std::size_t>(bytes)) return {};
  constexpr std::array<unsigned, 5> kPayload{0, 0x7F, 0x1F, 0x0F, 0x07};
  constexpr std::array<char32_t, 5> kSmallest{0, 0, 0x80, 0x800, 0x10000};
  char32_t value = first & kPayload[static_cast<std::size_t>(bytes)];
  for (int i = 1; i < bytes; ++i) {
    const char c = text[static_cast<std::size_t>(i)];
    if (!is_continuation(c)) return {};
    value = value << 6 | (static_cast<unsigned char>(c) & 0x3FU);
  }
  if (value < kSmallest[static_cast<std::size_t>(bytes)] || !is_scalar_value(value)) return {};
  return {value, bytes};
}

std::size_t utf8_valid_prefix(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    if (static_cast<unsigned char>(text[at]) < 0x80) {
      ++at;
      continue;
    }
    const int bytes = utf8_first(text.substr(at)).bytes;
    if (bytes == 0) break;
    at += static_cast<std::size_t>(bytes);
  }
  return at;
}

std::size_t utf8_cut(std::string_view text, std::size_t limit) {
  limit = std::min(limit, text.size());
  // A code point is split when one of the last three bytes starts a sequence that reaches beyond the limit.
  for (std::size_t back = 1; back <= 3 && back <= limit; ++back) {
    const char c = text[limit - back];
    if (is_continuation(c)) continue;
    const auto bytes = static_cast<std::size_t>(sequence_bytes(static_cast<unsigned char>(c)));
    return bytes > back ? limit - back : limit;
  }
  return limit;
}

void utf8_append(std::string& text, char32_t value) {
  const auto put = [&](char32_t byte) { text.push_back(static_cast<char>(static_cast<unsigned char>(byte))); };
  if (value < 0x80) {
    put(value);
  } else if (value < 0x800) {
    put(0xC0 | value >> 6);
    put(0x80 | (value & 0x3F));
  } else if (value < 0x10000) {
    put(0xE0 | value >> 12);
    put(0x80 | (value >> 6 & 0x3F));
    put(0x80 | (value & 0x3F));
  } else {
    put(0xF0 | value >> 18);
    put(0x80 | (value >> 12 & 0x3F));
    put(0x80 | (value >> 6 & 0x3F));
    put(0x80 | (value & 0x3F));
  }
}

}  // namespace plimsoll
