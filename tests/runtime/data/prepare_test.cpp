#include "runtime/data/prepare.hpp"

#include <sentencepiece_trainer.h>

#include <sys/stat.h>

#include <cstdlib>

#include "runtime/core/rng.hpp"
#include "runtime/data/text_reader.hpp"
#include "runtime/data/token_file.hpp"
#include "tests/runtime/data/data_test_support.hpp"

namespace plimsoll {
namespace {

class PrepareTest : public DataTest {
 protected:
  std::vector<std::int32_t> tokens(const std::string& name) const {
    const TokenFile file = TokenFile::open(path(name));
    std::vector<std::int32_t> ids(static_cast<std::size_t>(file.tokens()));
    file.read(0, ids, load_tokenizer(path(name))->vocabulary());
    return ids;
  }
  PrepareOptions options(const std::vector<std::string>& inputs, std::optional<TokenizerKind> kind = {}) const {
    PrepareOptions o;
    o.inputs = inputs;
    o.out = path("out");
    o.tokenizer = kind;
    return o;
  }
};

// Lines of made-up words, with indentation, blank lines and characters of one to four bytes.
std::string sample_text(int lines) {
  const RandomStream random(7, "text");
  const std::vector<std::string> parts{"ba", "lo", "né", "ship", "ti", "sea", "ö", "ra", "€", "mast"};
  std::string text;
  std::uint64_t n = 0;
  for (int line = 0; line < lines; ++line) {
    if (random.bits(n++) % 5 == 0) text += "  ";
    for (int word = 0; word < 8; ++word) {
      for (std::uint32_t part = 0; part <= random.bits(n) % 3; ++part)
        text += parts[random.bits(n + part) % parts.size()];
      n += 4;
      text += word < 7 ? " " : ".\n";
    }
    if (line % 9 == 0) text += "\n";
  }
  return text;
}

TEST_F(PrepareTest, BytesEndEachDocument) {
  auto o = options({write("a.txt", "ab"), write("b.txt", ""), write("c.txt", "\xFFz")});
  const PrepareResult result = prepare(o);
  EXPECT_EQ(tokens("out"), (std::vector<std::int32_t>{'a', 'b', 256, 256, 255, 'z', 256}));
  EXPECT_EQ(result.documents, 3);
  EXPECT_EQ(result.tokens, 7);
  EXPECT_EQ(result.text_bytes, 4);
  EXPECT_EQ(result.vocabulary, 257);
  EXPECT_EQ(result.tokenizer, "byte");
}

TEST_F(PrepareTest, CharTakesTheAlphabetOfAllInputs) {
  prepare(options({write("a.txt", "bé"), write("b.txt", "a€")}, TokenizerKind::Char));
  EXPECT_EQ(tokens("out"), (std::vector<std::int32_t>{1, 2, 0, 3}));
  EXPECT_EQ(load_tokenizer(path("out"))->decode(tokens("out")), "béa€");
  // Data prepared later with the same tokenizer.
  auto later = options({write("c.txt", "€€a")});
  later.like = path("out");
  later.out = path("later");
  prepare(later);
  EXPECT_EQ(tokens("later"), (std::vector<std::int32_t>{3, 3, 0}));
  later.inputs = {write("d.txt", "€x")};
  expect_error(ErrorKind::BadData, {"d.txt", "byte 3", "'x'"}, [&] { prepare(later); });
  EXPECT_EQ(tokens("later").size(), 3U);  // what was there is untouched
}

TEST_F(PrepareTest, ChunkSizeDoesNotMatter) {
  const std::string text = sample_text(60);
  write("a.txt", text);
  for (const TokenizerKind kind : {TokenizerKind::Byte, TokenizerKind::Char, TokenizerKind::SentencePiece}) {
    auto o = options({path("a.txt")}, kind);
    if (kind == TokenizerKind::SentencePiece) o.vocabulary = 320;
    prepare(o);
    const auto expected = tokens("out");
    EXPECT_EQ(load_tokenizer(path("out"))->decode(expected), text);
    for (const std::int64_t chunk : {4, 5, 7, 64, 1000}) {
      o.chunk_bytes = chunk;
      prepare(o);
      EXPECT_EQ(tokens("out"), expected) << tokenizer_name(kind) << " " << chunk;
    }
  }
}

TEST_F(PrepareTest, SentencePieceTrainsAndRoundTrips) {
  const std::string text = sample_text(400);
  for (const char* type : {"bpe", "unigram"}) {
    auto o = options({write("a.txt", text)}, TokenizerKind::SentencePiece);
    o.vocabulary = 400;
    o.model_type = type;
    const PrepareResult result = prepare(o);
    EXPECT_EQ(result.vocabulary, 400);
    EXPECT_EQ(result.unknown_tokens, 0);
    EXPECT_LT(result.tokens, static_cast<std::int64_t>(text.size()) / 2) << "it should compress";
    const auto tokenizer = load_tokenizer(path("out"));
    auto ids = tokens("out");
    ASSERT_EQ(ids.back(), tokenizer->end_of_document());
    ids.pop_back();
    EXPECT_EQ(ids, tokenizer->encode(text)) << "line by line must give what the whole gives";
    EXPECT_EQ(tokenizer->decode(ids), text);
    const std::string other = "  Tabs\tand Ünknown 😀\n\n\nlines ";
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(other)), other) << "bytes stand in for unknown characters";

    // The same text and options give the same model; a given model gives the same tokens.
    const std::string model = content("out.model");
    auto again = o;
    again.out = path("again");
    prepare(again);
    EXPECT_EQ(content("again.model"), model);
    again.vocabulary.reset();
    again.model_type.reset();
    again.model = path("out.model");
    again.out = path("given");
    prepare(again);
    EXPECT_EQ(tokens("given"), tokens("out"));
  }
}

// Models from elsewhere put a space before a text and may fold white space: line by line must still be the whole.
TEST_F(PrepareTest, GivenModelsSeeOneTextNotManyLines) {
  const std::string text = sample_text(100);
  write("a.txt", text);
  for (const char* rule : {"identity", "nmt_nfkc"}) {
    const std::string arguments = fmt::format(
        "--input={} --model_prefix={} --vocab_size=320 --model_type=bpe --byte_fallback=true "
        "--normalization_rule_name={} --remove_extra_whitespaces={} --minloglevel=2",
        path("a.txt"), path("given"), rule, rule == std::string("nmt_nfkc"));
    ASSERT_TRUE(sentencepiece::SentencePieceTrainer::Train(arguments).ok());
    auto o = options({path("a.txt")}, TokenizerKind::SentencePiece);
    o.model = path("given.model");
    prepare(o);
    const auto tokenizer = load_tokenizer(path("out"));
    auto expected = tokenizer->encode(text);
    expected.push_back(*tokenizer->end_of_document());
    EXPECT_EQ(tokens("out"), expected) << rule;
    if (rule == std::string("identity")) {
      EXPECT_EQ(tokenizer->decode(expected), text);
    }
  }
}

TEST_F(PrepareTest, TrainingSeesASampleOnly) {
  auto o = options({write("a.txt", sample_text(2000))}, TokenizerKind::SentencePiece);
  o.vocabulary = 300;
  o.training_bytes = 4000;
  EXPECT_EQ(prepare(o).vocabulary, 300);
}

TEST_F(PrepareTest, Errors) {
  expect_error(ErrorKind::MissingInput, {"none.txt"}, [&] { prepare(options({path("none.txt")})); });
  expect_error(ErrorKind::Usage, {}, [&] { prepare(options({})); });
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  expect_error(ErrorKind::MissingInput, {"pipe", "regular"}, [&] { prepare(options({path("pipe")})); });
  const std::string bad = write("bad.txt", "ab\ncd\xFF");
  for (const TokenizerKind kind : {TokenizerKind::Char, TokenizerKind::SentencePiece}) {
    expect_error(ErrorKind::BadData, {"bad.txt", "byte 5", "UTF-8"}, [&] { prepare(options({bad}, kind)); });
  }
  const std::string empty = write("empty.txt", "");
  for (const TokenizerKind kind : {TokenizerKind::Char, TokenizerKind::SentencePiece}) {
    expect_error(ErrorKind::BadData, {"empty.txt"}, [&] { prepare(options({empty}, kind)); });
  }
  auto o = options({write("a.txt", "a few words\n")}, TokenizerKind::SentencePiece);
  expect_error(ErrorKind::Config, {"8000"}, [&] { prepare(o); });
  o.model = write("no.model", "no model");
  expect_error(ErrorKind::BadData, {"no.model"}, [&] { prepare(o); });
  for (const char* name : {"out.bin", "out.idx", "out.tokenizer.json", "out.bin.partial"}) {
    EXPECT_FALSE(std::filesystem::exists(path(name))) << name;
  }
}

TEST_F(PrepareTest, OptionsThatExcludeEachOther) {
  const std::string text = write("a.txt", "a few words\n");
  auto chars = options({text}, TokenizerKind::Char);
  prepare(chars);
  const auto wrong = [&](const std::vector<std::string>& parts, const auto& change) {
    auto o = options({text});
    o.out = path("other");
    change(o);
    expect_error(ErrorKind::Usage, parts, [&] { prepare(o); });
    EXPECT_FALSE(std::filesystem::exists(path("other.bin")));
  };
  wrong({"--vocabulary", "byte"}, [](auto& o) { o.vocabulary = 500; });
  wrong({"--model-type", "char"}, [](auto& o) { o.tokenizer = TokenizerKind::Char, o.model_type = "bpe"; });
  wrong({"--model", "byte"}, [](auto& o) { o.model = "x.model"; });
  wrong({"--vocabulary", "--model x.model"},
        [](auto& o) { o.tokenizer = TokenizerKind::SentencePiece, o.model = "x.model", o.vocabulary = 500; });
  wrong({"--tokenizer byte", "--like", "char"},
        [&](auto& o) { o.tokenizer = TokenizerKind::Byte, o.like = chars.out; });
  wrong({"--vocabulary", "--like"}, [&](auto& o) { o.vocabulary = 500, o.like = chars.out; });
  auto same = options({text}, TokenizerKind::Char);
  same.out = path("same");
  same.like = chars.out;
  EXPECT_EQ(prepare(same).tokenizer, "char");
}

TEST_F(PrepareTest, ProgressIsMonotoneAndEndsAtTheTotal) {
  auto o =
      options({write("a.txt", std::string(100000, 'x')), write("b.txt", std::string(50000, 'y'))}, TokenizerKind::Char);
  o.chunk_bytes = 1000;
  std::int64_t last = 0;
  int calls = 0;
  prepare(o, [&](std::int64_t done, std::int64_t total) {
    EXPECT_EQ(total, 300000);
    EXPECT_GE(done, last);
    last = done;
    ++calls;
  });
  EXPECT_EQ(last, 300000);
  EXPECT_GE(calls, 290);
  EXPECT_LE(calls, 310);
}

TEST_F(PrepareTest, ReaderHoldsAChunkAndALine) {
  std::string text = "short\n" + std::string(70, 'x') + " " + std::string(30, 'y') + "\n";
  for (int i = 0; i < 40; ++i) text += "é€";  // 200 bytes without a line end or space
  write("a.txt", text);
  std::vector<std::string> expected;
  for (const std::int64_t chunk : {1000, 4, 13}) {
    TextReader reader(path("a.txt"), TextReader::Cut::Lines, chunk, 64);
    std::vector<std::string> pieces;
    std::string all;
    for (auto piece = reader.next(); !piece.empty(); piece = reader.next()) {
      EXPECT_LE(piece.size(), 64U);
      EXPECT_EQ(reader.piece_offset(), static_cast<std::int64_t>(all.size()));
      pieces.emplace_back(piece);
      all += piece;
    }
    EXPECT_EQ(all, text);
    if (expected.empty()) expected = pieces;
    EXPECT_EQ(pieces, expected);
  }
}

TEST_F(PrepareTest, TinyShakespeareHas65Characters) {
  const char* shared = std::getenv("PLIMSOLL_SHARED");
  const std::string text =
      std::string(shared != nullptr ? shared : PLIMSOLL_SOURCE_DIR "/../shared") + "/data/text/tinyshakespeare.txt";
  if (!std::filesystem::exists(text)) GTEST_SKIP() << "no " << text;
  const PrepareResult result = prepare(options({text}, TokenizerKind::Char));
  EXPECT_EQ(result.vocabulary, 65);
  EXPECT_EQ(result.tokens, 1115394);
  // The first line, "First Citizen:", in the numbering that everybody uses for this text.
  const auto ids = tokens("out");
  EXPECT_EQ((std::vector<std::int32_t>(ids.begin(), ids.begin() + 14)),
            (std::vector<std::int32_t>{18, 47, 56, 57, 58, 1, 15, 47, 58, 47, 64, 43, 52, 10}));
}

}  // namespace
}  // namespace plimsoll
