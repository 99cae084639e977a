#include "runtime/data/tokenizer.hpp"

#include "runtime/data/utf8.hpp"
#include "tests/runtime/data/data_test_support.hpp"

namespace plimsoll {
namespace {

class TokenizerTest : public DataTest {};

TEST_F(TokenizerTest, ByteRoundTripsEveryByte) {
  std::string text;
  for (int c = 0; c < 256; ++c) text.push_back(static_cast<char>(c));
  const auto tokenizer = make_byte_tokenizer();
  EXPECT_EQ(tokenizer->vocabulary(), 257);
  EXPECT_EQ(tokenizer->end_of_document(), 256);
  auto ids = tokenizer->encode(text);
  EXPECT_EQ(ids[255], 255);
  ids.push_back(256);
  EXPECT_EQ(tokenizer->decode(ids), text);
  expect_error(ErrorKind::BadData, {"token 257", "257"}, [&] { tokenizer->decode(std::vector<std::int32_t>{257}); });
  expect_error(ErrorKind::BadData, {"token -1"}, [&] { tokenizer->decode(std::vector<std::int32_t>{-1}); });
}

TEST_F(TokenizerTest, CharIsTheAlphabet) {
  const auto tokenizer = make_char_tokenizer({U'\n', U'a', U'é', U'€', U'😀'});
  const std::string text = "aé€😀\na";
  EXPECT_EQ(tokenizer->encode(text), (std::vector<std::int32_t>{1, 2, 3, 4, 0, 1}));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  EXPECT_FALSE(tokenizer->end_of_document());
  expect_error(ErrorKind::BadData, {"byte 3", "'ü'", "U+00FC"}, [&] { tokenizer->encode("aéü"); });
  expect_error(ErrorKind::BadData, {"byte 1", "0xC3", "UTF-8"}, [&] { tokenizer->encode("a\xC3"); });
  EXPECT_THROW(make_char_tokenizer({}), Error);
  EXPECT_THROW(make_char_tokenizer({U'b', U'a'}), Error);
}

TEST_F(TokenizerTest, SaveLoadCopy) {
  const auto original = make_char_tokenizer({U'x', U'é'});
  original->save(path("set"));
  for (const char* name : {"set", "set.bin", "set.idx"}) {
    ASSERT_TRUE(has_tokenizer(path(name)));
    EXPECT_EQ(load_tokenizer(path(name))->fingerprint(), original->fingerprint());
  }
  std::filesystem::create_directory(path("checkpoint"));
  copy_tokenizer(path("set"), path("checkpoint"));
  EXPECT_EQ(load_tokenizer(path("checkpoint"))->fingerprint(), original->fingerprint());
  EXPECT_EQ(load_tokenizer(path("checkpoint"))->encode("éx"), (std::vector<std::int32_t>{1, 0}));
  EXPECT_FALSE(has_tokenizer(path("other")));
  expect_error(ErrorKind::MissingInput, {"other.tokenizer.json"}, [&] { load_tokenizer(path("other")); });
}

TEST_F(TokenizerTest, CommonTokenizer) {
  make_byte_tokenizer()->save(path("a"));
  make_byte_tokenizer()->save(path("b"));
  make_char_tokenizer({U'x'})->save(path("c"));
  const auto common = [&](std::vector<std::string> names) {
    for (auto& name : names) name = path(name);
    return load_common_tokenizer(names, "run.yaml:1:8: data.train");
  };
  EXPECT_EQ(common({"a", "b", "without"})->name(), "byte");
  EXPECT_EQ(common({"without"}), nullptr);
  expect_error(ErrorKind::Config, {"run.yaml:1:8: data.train: " + path("a"), path("c")}, [&] {
    common({"a", "b", "c"});
  });
}

TEST_F(TokenizerTest, CorruptDescriptions) {
  const auto corrupt = [&](const std::string& text) {
    write("x.tokenizer.json", text);
    expect_error(ErrorKind::BadData, {"x.tokenizer.json"}, [&] { load_tokenizer(path("x")); });
  };
  for (const char* text :
       {"", "{", "[]", "3", "{}", R"({"kind": 3})", R"({"kind": "morse", "vocabulary": 2})", R"({"kind": "byte"})",
        R"({"kind": "byte", "vocabulary": 256})", R"({"kind": "byte", "vocabulary": "257"})",
        R"({"kind": "char", "vocabulary": 1})", R"({"kind": "char", "vocabulary": 1, "alphabet": []})",
        R"({"kind": "char", "vocabulary": 2, "alphabet": [98, 97]})",
        R"({"kind": "char", "vocabulary": 1, "alphabet": [55296]})",
        R"({"kind": "char", "vocabulary": 1, "alphabet": [-1]})",
        R"({"kind": "char", "vocabulary": 1, "alphabet": [1114112]})",
        R"({"kind": "char", "vocabulary": 1, "alphabet": [1e99]})",
        R"({"kind": "char", "vocabulary": 2, "alphabet": [97]})"}) {
    SCOPED_TRACE(text);
    corrupt(text);
  }
  write("s.tokenizer.json", R"({"kind": "sentencepiece", "vocabulary": 100})");
  expect_error(ErrorKind::MissingInput, {"s.model"}, [&] { load_tokenizer(path("s")); });
  write("s.model", "this is no model");
  expect_error(ErrorKind::BadData, {"s.model"}, [&] { load_tokenizer(path("s")); });
}

TEST_F(TokenizerTest, Utf8) {
  for (const char32_t c :
       {U'\0', U'\x7F', U'\x80', U'\x7FF', U'\x800', U'\xD7FF', U'\xE000', U'\xFFFF', U'\x10000', U'\x10FFFF'}) {
    std::string text;
    utf8_append(text, c);
    EXPECT_EQ(utf8_first(text).value, c);
    EXPECT_EQ(utf8_first(text).bytes, static_cast<int>(text.size()));
    for (std::size_t n = 1; n < text.size(); ++n) {
      EXPECT_EQ(utf8_first(std::string_view(text).substr(0, n)).bytes, 0);
      EXPECT_EQ(utf8_cut("ab" + text, 2 + n), 2U);
    }
    EXPECT_EQ(utf8_cut("ab" + text, 2 + text.size()), 2 + text.size());
  }
  // Overlong, surrogate, beyond Unicode, lone continuation, missing continuation.
  for (const char* bad :
       {"\xC0\x80", "\xE0\x80\x80", "\xF0\x80\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\x80", "\xC3(", "\xFF"}) {
    EXPECT_EQ(utf8_first(bad).bytes, 0);
    EXPECT_EQ(utf8_valid_prefix(std::string("ok") + bad), 2U);
  }
}

}  // namespace
}  // namespace plimsoll
