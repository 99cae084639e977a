#pragma once
// Text ↔ token ids. Three kinds: bytes (257 ids, 256 ends a document, needs no file), characters (the alphabet of one
// text), SentencePiece. A tokenizer is stored beside its data: `PREFIX.tokenizer.json` (kind, vocabulary, alphabet)
// and, for SentencePiece, `PREFIX.model`. A folder stands for the prefix `FOLDER/data`, which is how checkpoints keep
// it.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace plimsoll {

enum class TokenizerKind { Byte, Char, SentencePiece };

std::string_view tokenizer_name(TokenizerKind kind);  // byte, char, sentencepiece
std::optional<TokenizerKind> parse_tokenizer_kind(std::string_view name);

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual TokenizerKind kind() const = 0;
  std::string_view name() const { return tokenizer_name(kind()); }
  virtual std::int32_t vocabulary() const = 0;  // ids are in [0, vocabulary)
  // The id that ends a document, and the id for what the vocabulary lacks, where the kind has them.
  virtual std::optional<std::int32_t> end_of_document() const { return std::nullopt; }
  virtual std::optional<std::int32_t> unknown() const { return std::nullopt; }
  // Ids of `text`, without an end id. `continued` says that it follows earlier text of the same document: for the
  // pieces of a text cut at line ends, the concatenated ids are those of the whole. BadData names what cannot be
  // encoded.
  virtual std::vector<std::int32_t> encode(std::string_view text, bool continued = false) const = 0;
  // Ids that stand for no text (end of document) are left out; an id outside of the vocabulary is BadData.
  virtual std::string decode(std::span<const std::int32_t> ids) const = 0;
  // Two tokenizers with the same fingerprint are the same function.
  virtual std::string fingerprint() const = 0;
  // Writes the files named above, each atomically.
  virtual void save(const std::string& prefix) const = 0;
};

std::unique_ptr<Tokenizer> make_byte_tokenizer();
// `alphabet`: Unicode scalar values, strictly ascending; an id is the position in it.
std::unique_ptr<Tokenizer> make_char_tokenizer(std::vector<char32_t> alphabet);
// `model`: the content of a SentencePiece .model file; `origin` names it in errors.
std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(std::string model, const std::string& origin);

// Loads the tokenizer of a prefix, of a token file (its .bin or .idx) or of a folder. MissingInput, BadData name the
// file.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path);
bool has_tokenizer(const std::string& path);
// The one tokenizer of several data sets; null when none of them has one. Config error when two of them differ:
// "`key`: …", where the paths were written down.
std::unique_ptr<Tokenizer> load_common_tokenizer(std::span<const std::string> paths, std::string_view key);
// Copies the tokenizer of `path` into `folder`, from where load_tokenizer(folder) reads it.
void copy_tokenizer(const std::string& path, const std::string& folder);

}  // namespace plimsoll
