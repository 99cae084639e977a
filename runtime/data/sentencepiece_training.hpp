#pragma once
// Trains a SentencePiece model that loses nothing: text is not normalized, and what has no piece becomes byte pieces.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace plimsoll {

struct SentencePieceTraining {
  std::vector<std::string> inputs;
  std::int32_t vocabulary;
  std::string model_type;     // bpe | unigram
  std::int64_t sample_bytes;  // lines are sampled evenly down to about this much text
  std::int64_t chunk_bytes;
};

// The content of a .model file. `on_bytes` is told how many more bytes of the inputs were read. The same inputs and
// options give the same model.
std::string train_sentencepiece(const SentencePieceTraining& options,
                                const std::function<void(std::int64_t)>& on_bytes);

}  // namespace plimsoll
