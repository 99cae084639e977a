#include "runtime/data/tokenizer.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "runtime/core/error.hpp"
#include "runtime/data/files.hpp"
#include "runtime/data/token_file.hpp"
#include "runtime/data/tokenizer_files.hpp"
#include "runtime/data/utf8.hpp"

namespace plimsoll {
namespace {

constexpr std::array<std::string_view, 3> kKindNames{"byte", "char", "sentencepiece"};
constexpr std::int32_t kByteEnd = 256;
constexpr std::int64_t kDescriptionLimitBytes = std::int64_t{64} << 20;

std::string tokenizer_prefix(const std::string& path) {
  return std::filesystem::is_directory(path) ? (std::filesystem::path(path) / "data").string() : token_prefix(path);
}

class ByteTokenizer final : public Tokenizer {
 public:
  TokenizerKind kind() const override { return TokenizerKind::Byte; }
  std::int32_t vocabulary() const override { return kByteEnd + 1; }
  std::optional<std::int32_t> end_of_document() const override { return kByteEnd; }

  std::vector<std::int32_t> encode(std::string_view text, bool) const override {
    std::vector<std::int32_t> ids(text.size());
    std::ranges::transform(text, ids.begin(), [](char c) { return static_cast<unsigned char>(c); });
    return ids;
  }
  std::string decode(std::span<const std::int32_t> ids) const override {
    std::string text;
    for (const std::int32_t id : ids) {
      check_token_id(*this, id);
      if (id != kByteEnd) text.push_back(static_cast<char>(static_cast<unsigned char>(id)));
    }
    return text;
  }
  std::string fingerprint() const override { return "byte"; }
  void save(const std::string& prefix) const override { save_description(prefix, *this, {}); }
};

class CharTokenizer final : public Tokenizer {
 public:
  explicit CharTokenizer(std::vector<char32_t> alphabet) : alphabet_(std::move(alphabet)) {
    ids_.assign(alphabet_.back() + 1, -1);
    for (std::size_t i = 0; i < alphabet_.size(); ++i) ids_[alphabet_[i]] = static_cast<std::int32_t>(i);
  }
  TokenizerKind kind() const override { return TokenizerKind::Char; }
  std::int32_t vocabulary() const override { return static_cast<std::int32_t>(alphabet_.size()); }

  std::vector<std::int32_t> encode(std::string_view text, bool) const override {
    std::vector<std::int32_t> ids;
    ids.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
      const CodePoint c = utf8_first(text.substr(at));
      require(c.bytes > 0, ErrorKind::BadData, "byte {} (value 0x{:02X}) is not valid UTF-8", at,
              static_cast<unsigned char>(text[at]));
      const std::int32_t id = c.value < ids_.size() ? ids_[c.value] : -1;
      require(id >= 0, ErrorKind::BadData,
              "byte {}: the character '{}' (U+{:04X}) is not in the alphabet of the tokenizer", at,
              text.substr(at, static_cast<std::size_t>(c.bytes)), static_cast<std::uint32_t>(c.value));
      ids.push_back(id);
      at += static_cast<std::size_t>(c.bytes);
    }
    return ids;
  }
  std::string decode(std::span<const std::int32_t> ids) const override {
    std::string text;
    for (const std::int32_t id : ids) {
      check_token_id(*this, id);
      utf8_append(text, alphabet_[static_cast<std::size_t>(id)]);
    }
    return text;
  }
  std::string fingerprint() const override {
    std::string text = "char:";
    for (const char32_t c : alphabet_) utf8_append(text, c);
    return text;
  }
  void save(const std::string& prefix) const override { save_description(prefix, *this, alphabet_); }

 private:
  std::vector<char32_t> alphabet_;
  std::vector<std::int32_t> ids_;  // by code point; −1: not in the alphabet
};

std::vector<char32_t> parse_alphabet(const nlohmann::json& json, const std::string& file) {
  const auto found = json.find("alphabet");
  require(found != json.end() && found->is_array() && !found->empty(), ErrorKind::BadData,
          "{}: a char tokenizer needs an 'alphabet', a list of code points", file);
  std::vector<char32_t> alphabet;
  for (const auto& entry : *found) {
    const std::int64_t value = entry.is_number_integer() ? entry.get<std::int64_t>() : -1;
    const bool scalar = value >= 0 && value <= 0x10FFFF && is_scalar_value(static_cast<char32_t>(value));
    require(scalar && (alphabet.empty() || static_cast<char32_t>(value) > alphabet.back()), ErrorKind::BadData,
            "{}: alphabet entry {} is {}: code points must ascend", file, alphabet.size(), entry.dump());
    alphabet.push_back(static_cast<char32_t>(value));
  }
  return alphabet;
}

}  // namespace

std::string_view tokenizer_name(TokenizerKind kind) { return kKindNames[static_cast<std::size_t>(kind)]; }

std::optional<TokenizerKind> parse_tokenizer_kind(std::string_view name) {
  const auto found = std::ranges::find(kKindNames, name);
  if (found == kKindNames.end()) return std::nullopt;
  return static_cast<TokenizerKind>(found - kKindNames.begin());
}

void check_token_id(const Tokenizer& tokenizer, std::int32_t id) {
  require(id >= 0 && id < tokenizer.vocabulary(), ErrorKind::BadData,
          "token {} is outside of the vocabulary of {} of the {} tokenizer", id, tokenizer.vocabulary(),
          tokenizer.name());
}

void save_description(const std::string& prefix, const Tokenizer& tokenizer, std::span<const char32_t> alphabet) {
  nlohmann::ordered_json json;
  json["kind"] = tokenizer.name();
  json["vocabulary"] = tokenizer.vocabulary();
  if (!alphabet.empty()) json["alphabet"] = std::vector<std::uint32_t>(alphabet.begin(), alphabet.end());
  if (tokenizer.kind() == TokenizerKind::SentencePiece) {
    json["model"] = std::filesystem::path(prefix + ".model").filename().string();
  }
  write_file(prefix + ".tokenizer.json", json.dump() + "\n");
}

std::unique_ptr<Tokenizer> make_byte_tokenizer() { return std::make_unique<ByteTokenizer>(); }

std::unique_ptr<Tokenizer> make_char_tokenizer(std::vector<char32_t> alphabet) {
  const bool ascending = std::ranges::adjacent_find(alphabet, std::greater_equal<>()) == alphabet.end();
  require(!alphabet.empty() && ascending && std::ranges::all_of(alphabet, is_scalar_value), ErrorKind::BadData,
          "the alphabet of a char tokenizer must be ascending code points, at least one");
  return std::make_unique<CharTokenizer>(std::move(alphabet));
}

bool has_tokenizer(const std::string& path) { return is_regular_file(tokenizer_prefix(path) + ".tokenizer.json"); }

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path) {
  const std::string prefix = tokenizer_prefix(path);
  const std::string file = prefix + ".tokenizer.json";
  const auto json = nlohmann::json::parse(read_text_file(file, kDescriptionLimitBytes), nullptr, false);
  require(json.is_object(), ErrorKind::BadData, "{}: is not a JSON object", file);
  const auto kind_field = json.find("kind");
  require(kind_field != json.end() && kind_field->is_string(), ErrorKind::BadData, "{}: has no 'kind'", file);
  const auto kind = parse_tokenizer_kind(kind_field->get<std::string>());
  require(kind.has_value(), ErrorKind::BadData, "{}: kind {} is none of byte, char, sentencepiece", file,
          kind_field->dump());
  std::unique_ptr<Tokenizer> tokenizer;
  if (*kind == TokenizerKind::Byte) tokenizer = make_byte_tokenizer();
  if (*kind == TokenizerKind::Char) tokenizer = make_char_tokenizer(parse_alphabet(json, file));
  if (*kind == TokenizerKind::SentencePiece) tokenizer = load_sentencepiece_tokenizer(prefix + ".model");
  const auto vocabulary = json.find("vocabulary");
  require(vocabulary != json.end() && vocabulary->is_number_integer() &&
              vocabulary->get<std::int64_t>() == tokenizer->vocabulary(),
          ErrorKind::BadData, "{}: vocabulary {} does not match the {} ids of its {} tokenizer", file,
          vocabulary != json.end() ? vocabulary->dump() : "(missing)", tokenizer->vocabulary(), tokenizer->name());
  return tokenizer;
}

std::unique_ptr<Tokenizer> load_common_tokenizer(std::span<const std::string> paths, std::string_view key) {
  std::unique_ptr<Tokenizer> common;
  std::string owner;
  for (const std::string& path : paths) {
    if (!has_tokenizer(path)) continue;
    auto tokenizer = load_tokenizer(path);
    require(!common || common->fingerprint() == tokenizer->fingerprint(), ErrorKind::Config,
            "{}: {} and {} were made with different tokenizers", key, owner, path);
    if (!common) owner = path;
    common = std::move(tokenizer);
  }
  return common;
}

void copy_tokenizer(const std::string& path, const std::string& folder) {
  require(std::filesystem::is_directory(folder), ErrorKind::CheckpointIo, "{}: is not a folder", folder);
  load_tokenizer(path)->save(tokenizer_prefix(folder));
}

}  // namespace plimsoll
