#include "runtime/data/token_file.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <filesystem>
#include <optional>

#include "runtime/core/error.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/text.hpp"
#include "runtime/data/megatron_format.hpp"
#include "runtime/data/raw_format.hpp"

namespace plimsoll {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are little-endian");

constexpr std::int64_t kBlockEntries = 2048;
constexpr std::int64_t kLlmcHeaderBytes = 1024;
constexpr std::int32_t kLlmcMagic16 = 20240520;
constexpr std::int32_t kLlmcMagic32 = 20240801;
constexpr std::int64_t kCheckedBytes = std::int64_t{1} << 20;    // looked at in one go
constexpr std::int64_t kLongCheckBytes = std::int64_t{1} << 31;  // takes long enough to be announced

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

template <class T>
T read_value(const InputFile& file, std::int64_t offset) {
  std::array<std::byte, sizeof(T)> bytes;
  file.read_at(offset, bytes);
  return load<T>(bytes.data());
}

// Calls visit(index, value) for `count` values of type T that lie at `offset`, with a fixed buffer.
template <class T, class Visit>
void for_each_value(const InputFile& file, std::int64_t offset, std::int64_t count, Visit visit) {
  std::array<T, kBlockEntries> block;
  for (std::int64_t first = 0; first < count; first += kBlockEntries) {
    const auto n = static_cast<std::size_t>(std::min(kBlockEntries, count - first));
    file.read_at(offset + first * static_cast<std::int64_t>(sizeof(T)),
                 std::as_writable_bytes(std::span(block.data(), n)));
    for (std::size_t i = 0; i < n; ++i) visit(first + static_cast<std::int64_t>(i), block[i]);
  }
}

// Whether all values are in [0, limit); those of signed types come as the unsigned type of their width.
template <class T, bool kSigned>
bool all_below(const std::byte* bytes, std::int64_t count, std::int64_t limit) {
  constexpr T kHighest = kSigned ? std::numeric_limits<T>::max() / 2 : std::numeric_limits<T>::max();
  const T allowed = static_cast<std::uint64_t>(limit - 1) < kHighest ? static_cast<T>(limit - 1) : kHighest;
  T largest = 0;
  for (std::int64_t i = 0; i < count; ++i)
    largest = std::max(largest, load<T>(bytes + i * static_cast<std::int64_t>(sizeof(T))));
  return largest <= allowed;
}

template <class T>
std::optional<std::size_t> widen(const std::byte* bytes, std::span<std::int32_t> out, std::int64_t vocabulary,
                                 std::int64_t& bad_value) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::int64_t value = +load<T>(bytes + i * sizeof(T));
    if (value < 0 || value >= vocabulary) {
      bad_value = value;
      return i;
    }
    out[i] = static_cast<std::int32_t>(value);
  }
  return std::nullopt;
}

}  // namespace

std::string token_prefix(const std::string& path) {
  const std::string_view view(path);
  const bool file = view.ends_with(".bin") || view.ends_with(".idx");
  return file ? path.substr(0, path.size() - 4) : path;
}

bool same_token_file(const std::string& a, const std::string& b) {
  const auto place = [](const std::string& path) {
    std::error_code unknown;
    const auto real =
        std::filesystem::weakly_canonical(is_regular_file(path) ? path : token_prefix(path) + ".bin", unknown);
    return unknown ? path : token_prefix(real.string());
  };
  return place(a) == place(b);
}

TokenFile TokenFile::open(const std::string& path, TokenType type, std::int64_t vocabulary) {
  const std::string prefix = token_prefix(path);
  if (is_regular_file(prefix + ".idx") || std::string_view(path).ends_with(".idx")) return open_megatron(prefix, type);
  if (prefix != path || !is_regular_file(path)) return open_plain(prefix + ".bin", type, vocabulary);
  return open_plain(path, type, vocabulary);
}

std::int64_t TokenFile::element_bytes(Element element) {
  switch (element) {
    case Element::Uint8:
    case Element::Int8: return 1;
    case Element::Int16:
    case Element::Uint16: return 2;
    case Element::Int32:
    case Element::Uint32:
    case Element::Float32: return 4;
    case Element::Int64:
    case Element::Float64: break;
  }
  return 8;
}

std::string_view TokenFile::element_name(Element element) {
  constexpr std::array<std::string_view, 10> kNames{"",      "uint8",   "int8",    "int16",  "int32",
                                                    "int64", "float64", "float32", "uint16", "uint32"};
  return kNames[static_cast<std::size_t>(element)];
}

TokenFile TokenFile::open_megatron(const std::string& prefix, TokenType type) {
  const InputFile index = InputFile::open(prefix + ".idx");
  InputFile bin = InputFile::open(prefix + ".bin");
  const std::string& name = index.path();
  require(index.size() >= kMegatronHeaderBytes, ErrorKind::BadData, "{}: has {} bytes, a header alone has {}", name,
          index.size(), kMegatronHeaderBytes);
  std::array<char, kMegatronMagic.size()> magic{};
  index.read_at(0, std::as_writable_bytes(std::span(magic)));
  require(magic == kMegatronMagic, ErrorKind::BadData, "{}: byte 0: does not start with the magic MMIDIDX", name);
  const auto version = read_value<std::uint64_t>(index, kMegatronVersionOffset);
  require(version == kMegatronVersion, ErrorKind::BadData, "{}: byte {}: version {}, only {} is known", name,
          kMegatronVersionOffset, version, kMegatronVersion);
  const auto code = read_value<std::uint8_t>(index, kMegatronTypeOffset);
  const auto element = static_cast<Element>(code);
  const bool known = code >= 1 && code <= 8 && element != Element::Float32 && element != Element::Float64;
  require(known, ErrorKind::BadData, "{}: byte {}: dtype code {} is not an integer type", name, kMegatronTypeOffset,
          code);
  const Element asked = type == TokenType::Uint16 ? Element::Uint16 : Element::Uint32;
  require(type == TokenType::Auto || element == asked, ErrorKind::Config, "{}: data.dtype is {}, the index says {}",
          name, to_text(type), element_name(element));
  const std::int64_t tokens = check_index(index, element_bytes(element), bin.size());
  return {std::move(bin), "megatron", element, 0, tokens};
}

// Checks counts, lengths, pointers and document indices; returns the tokens of the .bin file.
std::int64_t TokenFile::check_index(const InputFile& index, std::int64_t width, std::int64_t bin_bytes) {
  const std::string& name = index.path();
  const auto sequences_u = read_value<std::uint64_t>(index, kMegatronSequencesOffset);
  const auto documents_u = read_value<std::uint64_t>(index, kMegatronDocumentsOffset);
  const auto rest = static_cast<std::uint64_t>(index.size() - kMegatronHeaderBytes);
  // The divisions keep the product below from overflowing.
  const bool fits = sequences_u <= rest / 12 && documents_u <= rest / 8 && sequences_u * 12 + documents_u * 8 == rest;
  require(fits, ErrorKind::BadData, "{}: byte {}: {} sequences and {} document indices do not fit a file of {} bytes",
          name, kMegatronSequencesOffset, sequences_u, documents_u, index.size());
  const auto sequences = static_cast<std::int64_t>(sequences_u);
  const auto documents = static_cast<std::int64_t>(documents_u);
  const std::int64_t lengths_at = kMegatronHeaderBytes;
  const std::int64_t pointers_at = lengths_at + 4 * sequences;
  const std::int64_t documents_at = pointers_at + 8 * sequences;

  std::array<std::int32_t, kBlockEntries> lengths;
  std::int64_t bytes = 0;
  for_each_value<std::int64_t>(index, pointers_at, sequences, [&](std::int64_t i, std::int64_t pointer) {
    const std::int64_t in_block = i % kBlockEntries;
    if (in_block == 0) {
      const auto n = static_cast<std::size_t>(std::min(kBlockEntries, sequences - i));
      index.read_at(lengths_at + 4 * i, std::as_writable_bytes(std::span(lengths.data(), n)));
    }
    require(pointer == bytes, ErrorKind::BadData, "{}: byte {}: pointer {} of sequence {} should be {}", name,
            pointers_at + 8 * i, pointer, i, bytes);
    const std::int64_t length = lengths[static_cast<std::size_t>(in_block)];
    require(length >= 0 && length * width <= bin_bytes - bytes, ErrorKind::BadData,
            "{}: byte {}: length {} of sequence {} goes beyond the {} bytes of the .bin file", name, lengths_at + 4 * i,
            length, i, bin_bytes);
    bytes += length * width;
  });
  require(bytes == bin_bytes, ErrorKind::BadData, "{}: describes {} bytes of tokens, its .bin file has {}", name, bytes,
          bin_bytes);
  require(bytes > 0, ErrorKind::BadData, "{}: holds no tokens", name);

  std::int64_t previous = 0;
  for_each_value<std::int64_t>(index, documents_at, documents, [&](std::int64_t i, std::int64_t value) {
    const bool ordered = i == 0 ? value == 0 : value >= previous;
    require(ordered && value <= sequences, ErrorKind::BadData,
            "{}: byte {}: document index {} after {}, of {} sequences", name, documents_at + 8 * i, value, previous,
            sequences);
    previous = value;
  });
  require(documents > 0 && previous == sequences, ErrorKind::BadData,
          "{}: byte {}: the last document ends at sequence {} of {}", name, index.size() - 8, previous, sequences);
  return bytes / width;
}

TokenFile TokenFile::open_plain(const std::string& path, TokenType type, std::int64_t vocabulary) {
  InputFile file = InputFile::open(path);
  const std::int64_t size = file.size();
  const std::int32_t magic = size >= 4 ? read_value<std::int32_t>(file, 0) : 0;
  if (magic == kLlmcMagic16 || magic == kLlmcMagic32) {
    require(size >= kLlmcHeaderBytes, ErrorKind::BadData, "{}: has {} bytes, its llm.c header alone has {}", path, size,
            kLlmcHeaderBytes);
    const auto version = read_value<std::int32_t>(file, 4);
    const std::int32_t expected = magic == kLlmcMagic16 ? 1 : 7;
    require(version == expected, ErrorKind::BadData, "{}: byte 4: llm.c version {}, expected {}", path, version,
            expected);
    const Element element = magic == kLlmcMagic16 ? Element::Uint16 : Element::Uint32;
    const Element asked = type == TokenType::Uint16 ? Element::Uint16 : Element::Uint32;
    require(type == TokenType::Auto || element == asked, ErrorKind::Config,
            "{}: data.dtype is {}, its llm.c header says {}", path, to_text(type), element_name(element));
    const std::int64_t tokens = read_value<std::int32_t>(file, 8);
    require(tokens > 0 && kLlmcHeaderBytes + tokens * element_bytes(element) == size, ErrorKind::BadData,
            "{}: byte 8: its llm.c header announces {} tokens of {} bytes, the file has {} bytes", path, tokens,
            element_bytes(element), size);
    return {std::move(file), "llm.c", element, kLlmcHeaderBytes, tokens};
  }
  require(size > 0, ErrorKind::BadData, "{}: holds no tokens", path);
  const bool automatic = type == TokenType::Auto;
  if (automatic) type = detect_raw_type(file, vocabulary);
  const Element element = type == TokenType::Uint32 ? Element::Uint32 : Element::Uint16;
  const std::int64_t width = element_bytes(element);
  require(size % width == 0, ErrorKind::BadData, "{}: byte {}: {} bytes are not a whole number of {} tokens", path,
          size - size % width, size, element_name(element));
  if (automatic)
    log_info("{}: has no header and no .idx: by its ids it is read as {} (data.dtype)", path, to_text(type));
  return {std::move(file), "raw", element, 0, size / width};
}

void TokenFile::check_ids(std::int64_t vocabulary) const {
  const std::int64_t width = element_bytes(element_);
  const std::int64_t block_tokens = kCheckedBytes / width;
  std::vector<std::byte> block(static_cast<std::size_t>(std::min(tokens_, block_tokens) * width));
  std::vector<std::int32_t> ids;
  if (tokens_ * width >= kLongCheckBytes) log_info("{}: checking {} token ids", path(), format_count(tokens_));
  for (std::int64_t first = 0; first < tokens_; first += block_tokens) {
    const std::int64_t count = std::min(block_tokens, tokens_ - first);
    file_.read_at(offset_ + first * width, std::span(block).first(static_cast<std::size_t>(count * width)));
    const bool good = [&] {
      switch (element_) {
        case Element::Uint8: return all_below<std::uint8_t, false>(block.data(), count, vocabulary);
        case Element::Int8: return all_below<std::uint8_t, true>(block.data(), count, vocabulary);
        case Element::Int16: return all_below<std::uint16_t, true>(block.data(), count, vocabulary);
        case Element::Uint16: return all_below<std::uint16_t, false>(block.data(), count, vocabulary);
        case Element::Int32: return all_below<std::uint32_t, true>(block.data(), count, vocabulary);
        case Element::Uint32: return all_below<std::uint32_t, false>(block.data(), count, vocabulary);
        case Element::Int64: return all_below<std::uint64_t, true>(block.data(), count, vocabulary);
        case Element::Float64:
        case Element::Float32: break;
      }
      return false;
    }();
    if (good) continue;
    ids.resize(static_cast<std::size_t>(count));
    read(first, ids, vocabulary);  // fails, naming the id
  }
}

void TokenFile::read(std::int64_t first, std::span<std::int32_t> out, std::int64_t vocabulary) const {
  require(first >= 0 && first <= tokens_ && static_cast<std::int64_t>(out.size()) <= tokens_ - first,
          ErrorKind::Internal, "{}: tokens {} + {} asked for, it has {}", path(), first, out.size(), tokens_);
  const std::int64_t width = element_bytes(element_);
  std::array<std::byte, 16384> block;
  while (!out.empty()) {
    const std::size_t n = std::min(out.size(), block.size() / static_cast<std::size_t>(width));
    const auto part = out.first(n);
    const std::int64_t at = offset_ + first * width;
    file_.read_at(at, std::span(block).first(n * static_cast<std::size_t>(width)));
    std::int64_t value = 0;
    const auto bad = [&]() -> std::optional<std::size_t> {
      switch (element_) {
        case Element::Uint8: return widen<std::uint8_t>(block.data(), part, vocabulary, value);
        case Element::Int8: return widen<std::int8_t>(block.data(), part, vocabulary, value);
        case Element::Int16: return widen<std::int16_t>(block.data(), part, vocabulary, value);
        case Element::Uint16: return widen<std::uint16_t>(block.data(), part, vocabulary, value);
        case Element::Int32: return widen<std::int32_t>(block.data(), part, vocabulary, value);
        case Element::Uint32: return widen<std::uint32_t>(block.data(), part, vocabulary, value);
        case Element::Int64: return widen<std::int64_t>(block.data(), part, vocabulary, value);
        case Element::Float64:
        case Element::Float32: break;
      }
      return std::size_t{0};
    }();
    if (bad) {
      const auto i = static_cast<std::int64_t>(*bad);
      fail(ErrorKind::BadData, "{}: token {} at byte {} is {}, outside of the vocabulary of {}", path(), first + i,
           at + i * width, value, vocabulary);
    }
    out = out.subspan(n);
    first += static_cast<std::int64_t>(n);
  }
}

}  // namespace plimsoll
