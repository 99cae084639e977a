#include "runtime/data/prepare.hpp"

#include <algorithm>
#include <filesystem>

#include "runtime/core/error.hpp"
#include "runtime/data/files.hpp"
#include "runtime/data/sentencepiece_training.hpp"
#include "runtime/data/text_reader.hpp"
#include "runtime/data/token_writer.hpp"
#include "runtime/data/tokenizer_files.hpp"
#include "runtime/data/utf8.hpp"

namespace plimsoll {
namespace {

// Reports at most once per chunk of work, never more than the total.
class Progress {
 public:
  Progress(const PrepareProgress& report, std::int64_t total, std::int64_t step)
      : report_(report), total_(total), step_(step) {}
  void add(std::int64_t bytes) {
    done_ = std::min(done_ + bytes, total_);
    if (done_ - reported_ >= step_) tell();
  }
  void finish() {
    done_ = total_;
    tell();
  }

 private:
  void tell() {
    reported_ = done_;
    if (report_) report_(done_, total_);
  }
  const PrepareProgress& report_;
  std::int64_t total_;
  std::int64_t step_;
  std::int64_t done_ = 0;
  std::int64_t reported_ = 0;
};

// Runs `work` on a piece of text; an error in it names file and position.
template <class Work>
void with_place(const TextReader& reader, Work work) {
  try {
    work();
  } catch (const Error& error) {
    throw Error(error.kind(), fmt::format("{}: from byte {}: {}", reader.path(), reader.piece_offset(), error.what()),
                error.where());
  }
}

std::vector<char32_t> collect_alphabet(const PrepareOptions& options, Progress& progress) {
  std::vector<bool> seen(0x110000, false);
  for (const std::string& input : options.inputs) {
    TextReader reader(input, TextReader::Cut::CodePoints, options.chunk_bytes);
    for (std::string_view piece = reader.next(); !piece.empty(); piece = reader.next()) {
      progress.add(static_cast<std::int64_t>(piece.size()));
      while (!piece.empty()) {
        const CodePoint c = utf8_first(piece);
        require(c.bytes > 0, ErrorKind::BadData, "{}: byte {} (value 0x{:02X}) is not valid UTF-8", input,
                reader.offset() - static_cast<std::int64_t>(piece.size()), static_cast<unsigned char>(piece[0]));
        seen[c.value] = true;
        piece.remove_prefix(static_cast<std::size_t>(c.bytes));
      }
    }
  }
  std::vector<char32_t> alphabet;
  for (char32_t c = 0; c < seen.size(); ++c) {
    if (seen[c]) alphabet.push_back(c);
  }
  require(!alphabet.empty(), ErrorKind::BadData, "{}: there is no text to take an alphabet from",
          options.inputs.front());
  return alphabet;
}

TokenizerKind kind_of(const PrepareOptions& o) { return o.tokenizer.value_or(TokenizerKind::Byte); }

bool needs_two_passes(const PrepareOptions& o) {
  if (!o.like.empty() || kind_of(o) == TokenizerKind::Byte) return false;
  return kind_of(o) == TokenizerKind::Char || o.model.empty();
}

// Options that would have no effect are errors.
void check_options(const PrepareOptions& o) {
  require(!o.inputs.empty(), ErrorKind::Usage, "there is no text file to prepare");
  require(!o.out.empty(), ErrorKind::Usage, "the prefix of the output is empty");
  const std::pair<const char*, bool> of_sentencepiece[] = {{"--model", !o.model.empty()},
                                                           {"--vocabulary", o.vocabulary.has_value()},
                                                           {"--model-type", o.model_type.has_value()}};
  for (const auto& [name, given] : of_sentencepiece) {
    if (!given) continue;
    require(o.like.empty(), ErrorKind::Usage, "{}: has no effect with --like {}, whose tokenizer is used", name,
            o.like);
    require(kind_of(o) == TokenizerKind::SentencePiece, ErrorKind::Usage,
            "{}: belongs to the sentencepiece tokenizer, not to {}", name, tokenizer_name(kind_of(o)));
    require(&name == &of_sentencepiece[0].first || o.model.empty(), ErrorKind::Usage,
            "{}: has no effect with --model {}, which is not trained", name, o.model);
  }
  require(o.vocabulary.value_or(1) > 0, ErrorKind::Usage, "--vocabulary {}: is not a number of pieces from 1",
          o.vocabulary.value_or(0));
  const std::string model_type = o.model_type.value_or("bpe");
  require(model_type == "bpe" || model_type == "unigram", ErrorKind::Usage,
          "--model-type '{}': is neither bpe nor unigram", model_type);
}

std::unique_ptr<Tokenizer> make_tokenizer(const PrepareOptions& o, Progress& progress) {
  if (!o.like.empty()) {
    auto tokenizer = load_tokenizer(o.like);
    require(!o.tokenizer || *o.tokenizer == tokenizer->kind(), ErrorKind::Usage,
            "--tokenizer {} contradicts --like {}, whose tokenizer is {}", tokenizer_name(kind_of(o)), o.like,
            tokenizer->name());
    return tokenizer;
  }
  if (kind_of(o) == TokenizerKind::Byte) return make_byte_tokenizer();
  if (kind_of(o) == TokenizerKind::Char) return make_char_tokenizer(collect_alphabet(o, progress));
  if (!o.model.empty()) return load_sentencepiece_tokenizer(o.model);
  const SentencePieceTraining training{o.inputs, o.vocabulary.value_or(kDefaultPieces), o.model_type.value_or("bpe"),
                                       o.training_bytes, o.chunk_bytes};
  return make_sentencepiece_tokenizer(train_sentencepiece(training, [&](std::int64_t bytes) { progress.add(bytes); }),
                                      o.out + ".model");
}

void encode_document(const std::string& input, const PrepareOptions& options, const Tokenizer& tokenizer,
                     TokenWriter& writer, PrepareResult& result, Progress& progress) {
  const bool lines = tokenizer.kind() == TokenizerKind::SentencePiece;
  TextReader reader(input, lines ? TextReader::Cut::Lines : TextReader::Cut::CodePoints, options.chunk_bytes);
  for (std::string_view piece = reader.next(); !piece.empty(); piece = reader.next()) {
    with_place(reader, [&] {
      const auto ids = tokenizer.encode(piece, reader.piece_offset() > 0);
      if (const auto unknown = tokenizer.unknown()) result.unknown_tokens += std::ranges::count(ids, *unknown);
      writer.append(ids);
    });
    progress.add(static_cast<std::int64_t>(piece.size()));
  }
  if (const auto end = tokenizer.end_of_document()) writer.append({&*end, 1});
  writer.end_document();
}

}  // namespace

PrepareResult prepare(const PrepareOptions& options, const PrepareProgress& report) {
  check_options(options);
  PrepareResult result;
  for (const std::string& input : options.inputs) result.text_bytes += InputFile::open(input).size();
  Progress progress(report, result.text_bytes * (needs_two_passes(options) ? 2 : 1), options.chunk_bytes);
  const auto parent = std::filesystem::path(options.out).parent_path();
  std::error_code error;
  if (!parent.empty()) std::filesystem::create_directories(parent, error);
  require(!error, ErrorKind::CheckpointIo, "{}: cannot be created: {}", parent.string(), error.message());

  const auto tokenizer = make_tokenizer(options, progress);
  TokenWriter writer(options.out, tokenizer->vocabulary());
  for (const std::string& input : options.inputs) {
    encode_document(input, options, *tokenizer, writer, result, progress);
  }
  result.documents = writer.documents();
  result.tokens = writer.tokens();
  result.vocabulary = tokenizer->vocabulary();
  result.tokenizer = tokenizer->name();
  require(result.tokens > 0, ErrorKind::BadData, "{}: there is no text", options.inputs.front());
  // Old tokens must not be read with the new tokenizer, whatever moment the process dies at.
  std::filesystem::remove(options.out + ".bin", error);
  tokenizer->save(options.out);
  writer.finish();
  progress.finish();
  return result;
}

}  // namespace plimsoll
