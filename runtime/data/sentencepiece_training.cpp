#include "runtime/data/sentencepiece_training.hpp"

#include <sentencepiece_trainer.h>

#include <algorithm>
#include <exception>
#include <optional>
#include <unordered_map>

#include "runtime/core/error.hpp"
#include "runtime/core/rng.hpp"
#include "runtime/data/text_reader.hpp"
#include "runtime/data/utf8.hpp"

namespace plimsoll {
namespace {

// SentencePiece skips sentences above this length, so longer lines come in parts.
constexpr std::int64_t kMaxSentenceBytes = 4096;

// The lines of all inputs, sampled. Errors are kept for the caller: they must not unwind through the library.
class LineIterator final : public sentencepiece::SentenceIterator {
 public:
  LineIterator(const SentencePieceTraining& options, double keep, const std::function<void(std::int64_t)>& on_bytes)
      : options_(options), keep_(keep), on_bytes_(on_bytes), random_(0, "data.train_tokenizer") {
    Next();
  }
  bool done() const override { return done_; }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }
  void Next() override {
    try {
      while (!advance()) {
      }
    } catch (...) {
      error_ = std::current_exception();
      done_ = true;
    }
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  // True when `line_` holds a sentence or everything has been read.
  bool advance() {
    if (!reader_) {
      done_ = input_ == options_.inputs.size();
      if (done_) return true;
      reader_.emplace(options_.inputs[input_++], TextReader::Cut::Lines, options_.chunk_bytes, kMaxSentenceBytes);
    }
    std::string_view piece = reader_->next();
    if (piece.empty()) {
      reader_.reset();
      return false;
    }
    on_bytes_(static_cast<std::int64_t>(piece.size()));
    const std::size_t valid = utf8_valid_prefix(piece);
    require(valid == piece.size(), ErrorKind::BadData, "{}: byte {} is not valid UTF-8", reader_->path(),
            reader_->piece_offset() + static_cast<std::int64_t>(valid));
    if (piece.ends_with('\n')) piece.remove_suffix(1);
    if (piece.empty() || (keep_ < 1 && random_.uniform(lines_++) >= keep_)) return false;
    line_.assign(piece);
    return true;
  }

  const SentencePieceTraining& options_;
  double keep_;
  const std::function<void(std::int64_t)>& on_bytes_;
  RandomStream random_;
  std::uint64_t lines_ = 0;
  std::size_t input_ = 0;
  std::optional<TextReader> reader_;
  std::string line_;
  bool done_ = false;
  std::exception_ptr error_;
};

}  // namespace

std::string train_sentencepiece(const SentencePieceTraining& options,
                                const std::function<void(std::int64_t)>& on_bytes) {
  require(options.model_type == "bpe" || options.model_type == "unigram", ErrorKind::Config,
          "the SentencePiece model type {} is neither bpe nor unigram", options.model_type);
  std::int64_t total = 0;
  for (const std::string& input : options.inputs) total += InputFile::open(input).size();
  const double keep = static_cast<double>(options.sample_bytes) / static_cast<double>(std::max<std::int64_t>(total, 1));
  LineIterator lines(options, keep, on_bytes);
  lines.rethrow();
  require(!lines.done(), ErrorKind::BadData, "{}: there is no text to train a tokenizer on",
          options.inputs.empty() ? "(no input)" : options.inputs.front());
  const std::unordered_map<std::string, std::string> arguments{
      {"vocab_size", std::to_string(options.vocabulary)},
      {"model_type", options.model_type},
      {"byte_fallback", "true"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"add_dummy_prefix", "false"},
      {"allow_whitespace_only_pieces", "true"},
      {"max_sentence_length", std::to_string(2 * kMaxSentenceBytes)},
      {"num_threads", "4"},  // fixed, because sums of expectations depend on it
      {"minloglevel", "2"},
  };
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(arguments, &lines, &model);
  lines.rethrow();
  require(status.ok(), ErrorKind::Config, "SentencePiece cannot train a {} vocabulary of {} on this text: {}",
          options.model_type, options.vocabulary, status.ToString());
  return model;
}

}  // namespace plimsoll
