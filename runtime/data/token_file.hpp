#pragma once
// Token files on disk. Three formats are read, little-endian all of them:
//   megatron  PREFIX.bin + PREFIX.idx of Megatron-LM's IndexedDataset: .idx = "MMIDIDX\0\0", uint64 version 1, uint8
//   dtype
//             code, uint64 sequences, uint64 document indices, int32 lengths, int64 byte pointers, int64 document
//             indices
//   llm.c     1024-byte header of int32 (20240520, 1, tokens; then uint16 ids) or (20240801, 7, tokens; then uint32
//             ids)
//   raw       nothing but uint16 or uint32 ids
// All sizes are 64-bit and checked against the file when it is opened. A malformed file is BadData naming file, byte
// offset and value; a missing one is MissingInput.

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>

#include "runtime/data/config.hpp"
#include "runtime/data/files.hpp"

namespace plimsoll {

class TokenFile {
 public:
  // `path` is a prefix or a .bin, .idx or other file. Megatron where an .idx lies beside the .bin; else llm.c where its
  // magic number starts the file; else raw, its ids as wide as `type` says; Auto: by detect_raw_type for `vocabulary`,
  // and the choice is logged. Config when `type` contradicts an .idx or an llm.c header.
  static TokenFile open(const std::string& path, TokenType type = TokenType::Auto,
                        std::int64_t vocabulary = kAnyVocabulary);

  std::int64_t tokens() const { return tokens_; }
  std::string_view format() const { return format_; }       // megatron, llm.c, raw
  const std::string& path() const { return file_.path(); }  // the file that holds the ids
  // Reads ids first … first + out.size() − 1. BadData with file, token, byte offset and value for an id that is not in
  // [0, vocabulary), or when the file has become shorter. Allocates nothing; may be called from several threads.
  void read(std::int64_t first, std::span<std::int32_t> out,
            std::int64_t vocabulary = std::numeric_limits<std::int32_t>::max()) const;
  // Streams through all ids, in bounded memory: BadData as for read() when one is not in [0, vocabulary).
  void check_ids(std::int64_t vocabulary) const;

  static constexpr std::int64_t kAnyVocabulary = std::int64_t{1} << 20;  // more ids than any tokenizer has

 private:
  enum class Element : std::uint8_t { Uint8 = 1, Int8, Int16, Int32, Int64, Float64, Float32, Uint16, Uint32 };
  TokenFile(InputFile file, std::string_view format, Element element, std::int64_t offset, std::int64_t tokens)
      : file_(std::move(file)), format_(format), element_(element), offset_(offset), tokens_(tokens) {}
  static TokenFile open_megatron(const std::string& prefix, TokenType type);
  static TokenFile open_plain(const std::string& path, TokenType type, std::int64_t vocabulary);
  static std::int64_t element_bytes(Element element);
  static std::string_view element_name(Element element);  // "uint16"
  static std::int64_t check_index(const InputFile& index, std::int64_t element_bytes, std::int64_t bin_bytes);

  InputFile file_;
  std::string_view format_;
  Element element_;
  std::int64_t offset_;  // bytes before the first id
  std::int64_t tokens_;
};

// "data/kjv.bin", "data/kjv.idx" and "data/kjv" → "data/kjv".
std::string token_prefix(const std::string& path);
// Do two paths, which need not exist, name the same tokens: with or without an ending, through links or not?
bool same_token_file(const std::string& a, const std::string& b);

}  // namespace plimsoll
