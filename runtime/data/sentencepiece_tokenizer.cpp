#include <sentencepiece_processor.h>

#include <algorithm>

#include "runtime/core/error.hpp"
#include "runtime/core/rng.hpp"
#include "runtime/data/files.hpp"
#include "runtime/data/tokenizer_files.hpp"
#include "runtime/data/utf8.hpp"

namespace plimsoll {
namespace {

constexpr std::int64_t kModelLimitBytes = std::int64_t{1} << 28;

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string model, const std::string& origin) : model_(std::move(model)) {
    const auto status = processor_.LoadFromSerializedProto(model_);
    require(status.ok() && processor_.GetPieceSize() > 0, ErrorKind::BadData, "{}: is not a SentencePiece model: {}",
            origin, status.ToString());
    line_end_ = encode_all("\n");
  }
  TokenizerKind kind() const override { return TokenizerKind::SentencePiece; }
  std::int32_t vocabulary() const override { return processor_.GetPieceSize(); }
  std::optional<std::int32_t> end_of_document() const override { return optional_id(processor_.eos_id()); }
  std::optional<std::int32_t> unknown() const override { return optional_id(processor_.unk_id()); }

  std::vector<std::int32_t> encode(std::string_view text, bool continued) const override {
    const std::size_t valid = utf8_valid_prefix(text);
    require(valid == text.size(), ErrorKind::BadData, "byte {} (value 0x{:02X}) is not valid UTF-8", valid,
            static_cast<unsigned char>(text[valid == text.size() ? 0 : valid]));
    if (!continued) return encode_all(text);
    // Models that put a space before a text must not put one before each line. A line end in front, whose ids are then
    // dropped, makes this line a later one; for models to which line ends are mere spaces it changes nothing.
    std::vector<std::int32_t> ids = encode_all(std::string("\n").append(text));
    const bool leads = ids.size() >= line_end_.size() && std::equal(line_end_.begin(), line_end_.end(), ids.begin());
    if (!leads) return encode_all(text);
    ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(line_end_.size()));
    return ids;
  }
  std::string decode(std::span<const std::int32_t> ids) const override {
    for (const std::int32_t id : ids) check_token_id(*this, id);
    std::string text;
    const auto status = processor_.Decode(std::vector<int>(ids.begin(), ids.end()), &text);
    require(status.ok(), ErrorKind::BadData, "SentencePiece cannot decode: {}", status.ToString());
    return text;
  }
  std::string fingerprint() const override {
    return fmt::format("sentencepiece:{}:{:016x}", model_.size(), stream_id(model_));
  }
  void save(const std::string& prefix) const override {
    write_file(prefix + ".model", model_);
    save_description(prefix, *this, {});
  }

 private:
  static std::optional<std::int32_t> optional_id(int id) {
    return id >= 0 ? std::optional<std::int32_t>(id) : std::nullopt;
  }
  std::vector<std::int32_t> encode_all(std::string_view text) const {
    std::vector<int> ids;
    const auto status = processor_.Encode(text, &ids);
    require(status.ok(), ErrorKind::BadData, "SentencePiece cannot encode: {}", status.ToString());
    return ids;
  }

  std::string model_;
  sentencepiece::SentencePieceProcessor processor_;
  std::vector<std::int32_t> line_end_;  // ids of a text that is one line end
};

}  // namespace

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(std::string model, const std::string& origin) {
  return std::make_unique<SentencePieceTokenizer>(std::move(model), origin);
}

std::unique_ptr<Tokenizer> load_sentencepiece_tokenizer(const std::string& file) {
  return make_sentencepiece_tokenizer(read_text_file(file, kModelLimitBytes), file);
}

}  // namespace plimsoll
