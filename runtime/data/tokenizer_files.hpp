#pragma once
// What the tokenizers share among themselves; users of tokenizers need only tokenizer.hpp.

#include <memory>
#include <span>
#include <string>

#include "runtime/data/tokenizer.hpp"

namespace plimsoll {

// BadData unless `id` is in the tokenizer's vocabulary.
void check_token_id(const Tokenizer& tokenizer, std::int32_t id);
// Writes PREFIX.tokenizer.json; `alphabet` is empty for kinds without one.
void save_description(const std::string& prefix, const Tokenizer& tokenizer, std::span<const char32_t> alphabet);
// Reads a SentencePiece .model file.
std::unique_ptr<Tokenizer> load_sentencepiece_tokenizer(const std::string& file);

}  // namespace plimsoll
