#pragma once
// Text files → one token file (Megatron .bin/.idx) and its tokenizer beside it, in bounded memory. Each text file is
// one document; tokenizers that have an end-of-document id put it after each. The result does not depend on the chunk
// size.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "runtime/data/tokenizer.hpp"

namespace plimsoll {

struct PrepareOptions {
  std::vector<std::string> inputs;         // text files
  std::string out;                         // prefix of the files to write
  std::optional<TokenizerKind> tokenizer;  // nullopt: that of `like`, else bytes
  std::string like;                        // use the tokenizer of these data instead (a prefix or folder)
  std::string model;                       // SentencePiece: use this .model file; empty: train one on the inputs
  std::optional<std::int32_t> vocabulary;  // SentencePiece training: pieces, at least 260 + the alphabet; nullopt: 8000
  std::optional<std::string> model_type;   // SentencePiece training: bpe | unigram; nullopt: bpe
  std::int64_t training_bytes = std::int64_t{64}
                                << 20;               // it sees at most about this much text, an even sample of lines
  std::int64_t chunk_bytes = std::int64_t{1} << 20;  // read at a time
};

struct PrepareResult {
  std::int64_t documents = 0;
  std::int64_t tokens = 0;
  std::int64_t text_bytes = 0;
  std::int64_t unknown_tokens = 0;  // what the vocabulary has no piece for
  std::int32_t vocabulary = 0;
  std::string tokenizer;  // its name
};

// Called with bytes of work done and in total (passes over the text count each).
using PrepareProgress = std::function<void(std::int64_t done_bytes, std::int64_t total_bytes)>;

inline constexpr std::int32_t kDefaultPieces = 8000;

// Errors: Usage (options that exclude each other), MissingInput, BadData (file, byte, reason), Config (a vocabulary
// that SentencePiece cannot reach), CheckpointIo (output). The outputs appear only when everything succeeded.
PrepareResult prepare(const PrepareOptions& options, const PrepareProgress& progress = {});

}  // namespace plimsoll
