#include "runtime/data/raw_format.hpp"

#include <algorithm>
#include <cstring>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kBlockBytes = std::int64_t{1} << 20;
constexpr std::int64_t kFewWords = 64;

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

// The first id of a reading that lies outside of the vocabulary.
struct Misfit {
  std::int64_t byte = -1;  // −1: there is none
  std::int64_t value = 0;
};

template <class T>
void look(const std::byte* block, std::int64_t bytes, std::int64_t at, std::int64_t vocabulary, Misfit& misfit) {
  if (misfit.byte >= 0) return;
  T largest = 0;
  for (std::int64_t i = 0; i + static_cast<std::int64_t>(sizeof(T)) <= bytes; i += sizeof(T))
    largest = std::max(largest, load<T>(block + i));
  if (static_cast<std::int64_t>(largest) < vocabulary) return;
  std::int64_t i = 0;
  while (static_cast<std::int64_t>(load<T>(block + i)) < vocabulary) i += sizeof(T);
  misfit = {at + i, static_cast<std::int64_t>(load<T>(block + i))};
}

}  // namespace

TokenType detect_raw_type(const InputFile& file, std::int64_t vocabulary) {
  const std::int64_t size = file.size();
  if (size % 4 != 0) return TokenType::Uint16;
  Misfit narrow, wide;
  bool zeros = true;
  std::vector<std::byte> block(static_cast<std::size_t>(std::min(size, kBlockBytes)));
  for (std::int64_t at = 0; at < size && (narrow.byte < 0 || wide.byte < 0); at += kBlockBytes) {
    const std::int64_t bytes = std::min(kBlockBytes, size - at);
    file.read_at(at, std::span(block).first(static_cast<std::size_t>(bytes)));
    look<std::uint16_t>(block.data(), bytes, at, vocabulary, narrow);
    look<std::uint32_t>(block.data(), bytes, at, vocabulary, wide);
    zeros = zeros && std::all_of(block.begin(), block.begin() + bytes, [](std::byte b) { return b == std::byte{0}; });
  }
  if (narrow.byte >= 0 && wide.byte >= 0)
    fail(ErrorKind::BadData,
         "{}: holds neither uint16 ids (byte {} is {}) nor uint32 ids (byte {} is {}) of a vocabulary of {}",
         file.path(), narrow.byte, narrow.value, wide.byte, wide.value, vocabulary);
  if (narrow.byte >= 0) return TokenType::Uint32;
  if (wide.byte >= 0) return TokenType::Uint16;
  require(!zeros && size / 2 >= kFewWords, ErrorKind::Config,
          "{}: cannot tell whether its {} bytes are uint16 or uint32 ids: give data.dtype", file.path(), size);
  return TokenType::Uint32;
}

}  // namespace plimsoll
