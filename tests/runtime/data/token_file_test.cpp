#include "runtime/data/token_file.hpp"

#include "tests/runtime/data/data_test_support.hpp"

namespace plimsoll {
namespace {

class TokenFileTest : public DataTest {
 protected:
  static std::vector<std::int32_t> all(const TokenFile& file, std::int64_t vocabulary = 1 << 30) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(file.tokens()));
    file.read(0, ids, vocabulary);
    return ids;
  }
  template <class T>
  std::string bytes_of(const std::vector<T>& values) const {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
  }
  std::string write_llmc(const std::string& name, std::int32_t magic, std::int32_t version, std::int32_t tokens,
                         const std::string& ids) const {
    std::vector<std::int32_t> header(256, 0);
    header[0] = magic;
    header[1] = version;
    header[2] = tokens;
    return write(name, bytes_of(header) + ids);
  }
};

TEST_F(TokenFileTest, MegatronRoundTripNarrowAndWide) {
  for (const std::int64_t vocabulary : {300, 65499, 65500, 1 << 20}) {
    const std::string prefix = write_tokens("data", 100000, vocabulary);
    for (const std::string& name : {prefix, prefix + ".bin", prefix + ".idx"}) {
      const TokenFile file = TokenFile::open(name);
      EXPECT_EQ(file.format(), "megatron");
      const auto ids = all(file);
      ASSERT_EQ(ids.size(), 100000U);
      for (std::size_t i = 0; i < ids.size(); ++i) ASSERT_EQ(ids[i], static_cast<std::int64_t>(i) % vocabulary);
    }
    EXPECT_EQ(std::filesystem::file_size(prefix + ".bin"), 100000U * (vocabulary < 65500 ? 2 : 4));
  }
}

TEST_F(TokenFileTest, WriterWritesMegatronsBytes) {
  TokenWriter writer(path("data"), 100);
  writer.append(std::vector<std::int32_t>{1, 2, 3});
  writer.end_document();
  writer.end_document();  // nothing in it: left out
  writer.append(std::vector<std::int32_t>{4});
  writer.finish();
  std::string expected = std::string("MMIDIDX\0\0", 9) + bytes_of<std::uint64_t>({1}) + '\x08' +
                         bytes_of<std::uint64_t>({2, 3}) + bytes_of<std::int32_t>({3, 1}) +
                         bytes_of<std::int64_t>({0, 6}) + bytes_of<std::int64_t>({0, 1, 2});
  EXPECT_EQ(content("data.idx"), expected);
  EXPECT_EQ(content("data.bin"), bytes_of<std::uint16_t>({1, 2, 3, 4}));
}

TEST_F(TokenFileTest, LongDocumentsBecomeSeveralSequences) {
  TokenWriter writer(path("data"), 100, 4);
  writer.append(std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8});
  writer.end_document();
  writer.append(std::vector<std::int32_t>{9, 10, 11, 12});
  writer.finish();
  EXPECT_EQ(writer.documents(), 2);
  const std::string index = content("data.idx");
  EXPECT_EQ(index.substr(34, 16), bytes_of<std::int32_t>({4, 4, 1, 4}));
  EXPECT_EQ(index.substr(34 + 16 + 32), bytes_of<std::int64_t>({0, 3, 4}));
  EXPECT_EQ(all(TokenFile::open(path("data"))).back(), 12);
}

TEST_F(TokenFileTest, WriterLeavesNothingWhenItFails) {
  {
    TokenWriter writer(path("data"), 10);
    writer.append(std::vector<std::int32_t>{1});
    expect_error(ErrorKind::BadData, {"data.bin", "token 1", "is 10"},
                 [&] { writer.append(std::vector<std::int32_t>{10}); });
    expect_error(ErrorKind::CheckpointIo, {"another process"}, [&] { TokenWriter(path("data"), 10); });
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
  EXPECT_THROW(TokenWriter(path("data"), 10).finish(), Error);
  EXPECT_THROW(TokenWriter(path("absent/data"), 10), Error);
}

TEST_F(TokenFileTest, ReadsEveryIntegerType) {
  const auto check = [&](int code, const std::string& ids) {
    write_tokens("data", 3, 100);
    write("data.bin", ids);
    patch<std::uint8_t>("data.idx", 17, static_cast<std::uint8_t>(code));
    EXPECT_EQ(all(TokenFile::open(path("data"))), (std::vector<std::int32_t>{5, 6, 120})) << code;
  };
  check(1, bytes_of<std::uint8_t>({5, 6, 120}));
  check(2, bytes_of<std::int8_t>({5, 6, 120}));
  check(3, bytes_of<std::int16_t>({5, 6, 120}));
  check(4, bytes_of<std::int32_t>({5, 6, 120}));
  check(5, bytes_of<std::int64_t>({5, 6, 120}));
  check(8, bytes_of<std::uint16_t>({5, 6, 120}));
}

TEST_F(TokenFileTest, LlmcAndRaw) {
  write_llmc("gpt2.bin", 20240520, 1, 3, bytes_of<std::uint16_t>({7, 50256, 9}));
  const TokenFile gpt2 = TokenFile::open(path("gpt2.bin"));
  EXPECT_EQ(gpt2.format(), "llm.c");
  EXPECT_EQ(all(gpt2), (std::vector<std::int32_t>{7, 50256, 9}));
  EXPECT_EQ(all(TokenFile::open(path("gpt2"))).size(), 3U);  // a prefix will do
  expect_error(ErrorKind::Config, {"gpt2.bin", "uint32", "uint16"},
               [&] { TokenFile::open(path("gpt2"), TokenType::Uint32); });

  write_llmc("llama.bin", 20240801, 7, 2, bytes_of<std::uint32_t>({128000, 9}));
  EXPECT_EQ(all(TokenFile::open(path("llama.bin"))), (std::vector<std::int32_t>{128000, 9}));

  write("raw.bin", bytes_of<std::uint16_t>({1, 2, 3, 4}));
  EXPECT_EQ(TokenFile::open(path("raw.bin"), TokenType::Uint16).format(), "raw");
  EXPECT_EQ(all(TokenFile::open(path("raw.bin"), TokenType::Auto, 100)), (std::vector<std::int32_t>{1, 2, 3, 4}));
  write("raw32.dat", bytes_of<std::uint32_t>({70000, 2}));
  EXPECT_EQ(all(TokenFile::open(path("raw32.dat"), TokenType::Uint32)), (std::vector<std::int32_t>{70000, 2}));
}

TEST_F(TokenFileTest, AGivenTypeMustBeThatOfTheIndex) {
  write_tokens("narrow", 10, 100);
  write_tokens("wide", 10, 1 << 20);
  EXPECT_EQ(all(TokenFile::open(path("narrow"), TokenType::Uint16)).size(), 10U);
  expect_error(ErrorKind::Config, {"narrow.idx", "data.dtype is uint32", "uint16"},
               [&] { TokenFile::open(path("narrow"), TokenType::Uint32); });
  expect_error(ErrorKind::Config, {"wide.idx", "data.dtype is uint16", "int32"},
               [&] { TokenFile::open(path("wide"), TokenType::Uint16); });
}

TEST_F(TokenFileTest, AllIdsAreChecked) {
  constexpr std::int64_t kTokens = 1500000;  // several blocks
  write_tokens("data", kTokens, 1000);
  EXPECT_NO_THROW(TokenFile::open(path("data")).check_ids(1000));
  EXPECT_NO_THROW(TokenFile::open(path("data")).check_ids(1 << 30));
  expect_error(ErrorKind::BadData, {"data.bin", "token 999", "byte 1998", "is 999", "vocabulary of 999"},
               [&] { TokenFile::open(path("data")).check_ids(999); });
  for (const std::int64_t token : {std::int64_t{0}, std::int64_t{700001}, kTokens - 1}) {
    patch("data.bin", 2 * token, std::uint16_t{65535});
    expect_error(ErrorKind::BadData, {fmt::format("token {} at byte {} is 65535", token, 2 * token)},
                 [&] { TokenFile::open(path("data")).check_ids(65535); });
    EXPECT_NO_THROW(TokenFile::open(path("data")).check_ids(65536));
    patch("data.bin", 2 * token, std::uint16_t{0});
  }
  write_tokens("wide", 1000, 1 << 20);
  patch("wide.bin", 400, std::int32_t{-2});
  expect_error(ErrorKind::BadData, {"token 100 at byte 400 is -2"},
               [&] { TokenFile::open(path("wide")).check_ids(1 << 30); });
}

TEST_F(TokenFileTest, MissingFiles) {
  expect_error(ErrorKind::MissingInput, {"none.bin"}, [&] { TokenFile::open(path("none")); });
  expect_error(ErrorKind::MissingInput, {"none.idx"}, [&] { TokenFile::open(path("none.idx")); });
  expect_error(ErrorKind::MissingInput, {}, [&] { TokenFile::open(folder_.string()); });
  write_tokens("data", 10);
  std::filesystem::remove(path("data.bin"));
  expect_error(ErrorKind::MissingInput, {"data.bin"}, [&] { TokenFile::open(path("data")); });
}

TEST_F(TokenFileTest, OneFileHasManyNames) {
  write_tokens("data", 10);
  std::filesystem::create_symlink(path("data.bin"), path("link.bin"));
  EXPECT_TRUE(same_token_file(path("data"), path("data.bin")));
  EXPECT_TRUE(same_token_file(path("data.idx"), path("./data")));
  EXPECT_TRUE(same_token_file(path("link"), path("data")));
  EXPECT_FALSE(same_token_file(path("data"), path("other")));
  EXPECT_TRUE(same_token_file("nowhere/a", "nowhere/a.bin"));
}

// Every single corruption of the index is found when the file is opened, with file, byte and value.
TEST_F(TokenFileTest, CorruptIndex) {
  const auto corrupt = [&](std::int64_t offset, auto value, const std::vector<std::string>& parts) {
    TokenWriter writer(path("data"), 100);
    for (int document = 0; document < 3; ++document) {
      writer.append(std::vector<std::int32_t>{1, 2, 3, 4});
      writer.end_document();
    }
    writer.finish();
    patch(std::string("data.idx"), offset, value);
    std::vector<std::string> all_parts = parts;
    all_parts.push_back("data.idx");
    expect_error(ErrorKind::BadData, all_parts, [&] { TokenFile::open(path("data")); });
  };
  corrupt(0, 'X', {"MMIDIDX"});
  corrupt(9, std::uint64_t{2}, {"byte 9", "version 2"});
  corrupt(17, std::uint8_t{7}, {"byte 17", "dtype code 7"});
  corrupt(17, std::uint8_t{9}, {"dtype code 9"});
  corrupt(17, std::uint8_t{0}, {"dtype code 0"});
  corrupt(17, std::uint8_t{4}, {"pointer"});  // other width
  corrupt(18, std::uint64_t{4}, {"byte 18", "4 sequences"});
  corrupt(18, std::uint64_t{1} << 63, {"byte 18"});
  corrupt(26, ~std::uint64_t{0}, {"byte 18"});
  corrupt(34, std::int32_t{-1}, {"byte 34", "length -1"});
  corrupt(38, std::int32_t{5}, {"byte 62", "pointer 16 of sequence 2 should be 18"});
  corrupt(42, std::int32_t{5}, {"byte 42", "length 5"});
  corrupt(42, std::int32_t{3}, {"describes 22 bytes", "has 24"});
  corrupt(54, std::int64_t{-8}, {"byte 54", "pointer -8"});
  corrupt(70, std::int64_t{1}, {"byte 70", "document index 1"});
  corrupt(78, std::int64_t{3}, {"byte 86", "document index 2 after 3"});
  corrupt(94, std::int64_t{4}, {"byte 94", "document index 4"});
  corrupt(94, std::int64_t{2}, {"byte 94", "sequence 2 of 3"});
}

// Flipping any one bit of the index is found, or (in the values of no consequence) changes nothing about the ids.
TEST_F(TokenFileTest, EveryBitFlipOfTheIndex) {
  TokenWriter writer(path("data"), 100);
  for (int document = 0; document < 2; ++document) {
    writer.append(std::vector<std::int32_t>{1, 2, 3, 4});
    writer.end_document();
  }
  writer.finish();
  const std::string good = content("data.idx");
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    write("data.idx", bad);
    try {
      const TokenFile file = TokenFile::open(path("data"));
      EXPECT_EQ(file.tokens(), 8) << "bit " << bit;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::BadData) << error.what();
    }
  }
}

TEST_F(TokenFileTest, EveryTruncation) {
  write_tokens("data", 20, 100);
  const std::string index = content("data.idx");
  for (std::size_t bytes = 0; bytes < index.size(); ++bytes) {
    write("data.idx", index.substr(0, bytes));
    expect_error(ErrorKind::BadData, {"data.idx"}, [&] { TokenFile::open(path("data")); });
  }
  write("data.idx", index);
  for (std::uint64_t bytes = 0; bytes < 40; ++bytes) {
    resize("data.bin", bytes);
    expect_error(ErrorKind::BadData, {"data.idx"}, [&] { TokenFile::open(path("data")); });
  }
  write_llmc("c.bin", 20240520, 1, 3, bytes_of<std::uint16_t>({7, 8, 9}));
  for (const std::uint64_t bytes : {1029, 1028, 1025, 1024, 1023, 1000, 12, 4}) {
    resize("c.bin", bytes);
    expect_error(ErrorKind::BadData, {"c.bin"}, [&] { TokenFile::open(path("c.bin")); });
  }
  write("raw.bin", "abc");
  expect_error(ErrorKind::BadData, {"raw.bin", "byte 2", "uint16"}, [&] { TokenFile::open(path("raw.bin")); });
  write("empty.bin", "");
  expect_error(ErrorKind::BadData, {"empty.bin", "no tokens"}, [&] { TokenFile::open(path("empty.bin")); });
}

TEST_F(TokenFileTest, CorruptLlmcHeader) {
  const std::string ids = bytes_of<std::uint16_t>({7, 8, 9});
  write_llmc("c.bin", 20240520, 2, 3, ids);
  expect_error(ErrorKind::BadData, {"c.bin", "byte 4", "version 2"}, [&] { TokenFile::open(path("c.bin")); });
  for (const std::int32_t tokens : {-3, 0, 2, 4, 2147483647}) {
    write_llmc("c.bin", 20240520, 1, tokens, ids);
    expect_error(ErrorKind::BadData, {"c.bin", "byte 8", std::to_string(tokens)},
                 [&] { TokenFile::open(path("c.bin")); });
  }
}

TEST_F(TokenFileTest, IdsOutsideOfTheVocabulary) {
  write_tokens("data", 20000, 60000);
  const TokenFile file = TokenFile::open(path("data"));
  EXPECT_NO_THROW(all(file, 20000));
  expect_error(ErrorKind::BadData, {"data.bin", "token 19999", "byte 39998", "is 19999", "vocabulary of 19999"},
               [&] { all(file, 19999); });
  write_tokens("wide", 100, 1 << 20);
  patch<std::int32_t>("wide.bin", 40, -5);
  expect_error(ErrorKind::BadData, {"wide.bin", "token 10", "byte 40", "is -5"},
               [&] { all(TokenFile::open(path("wide"))); });
  write("raw.bin", bytes_of<std::uint32_t>({1, 0xFFFFFFFFU}));
  expect_error(ErrorKind::BadData, {"raw.bin", "token 1", "byte 4", "is 4294967295"},
               [&] { all(TokenFile::open(path("raw.bin"), TokenType::Uint32)); });
}

TEST_F(TokenFileTest, ShrinksWhileInUse) {
  write_tokens("data", 1000, 100);
  const TokenFile file = TokenFile::open(path("data"));
  resize("data.bin", 1001);
  std::vector<std::int32_t> ids(100);
  EXPECT_NO_THROW(file.read(400, ids));
  expect_error(ErrorKind::BadData, {"data.bin", "byte 1002", "2000 bytes", "1001 now"}, [&] { file.read(401, ids); });
}

TEST_F(TokenFileTest, FiveGigabytesSparse) {
  constexpr std::int64_t kTokens = 2'684'354'560;  // 5 GiB of uint16: more than int32 can count
  write("big.bin", "");
  resize("big.bin", 2 * kTokens);
  patch<std::uint16_t>("big.bin", 2 * (kTokens - 1), 4242);
  const TokenFile raw = TokenFile::open(path("big.bin"));
  EXPECT_EQ(raw.tokens(), kTokens);
  std::vector<std::int32_t> ids(3);
  raw.read(kTokens - 3, ids);
  EXPECT_EQ(ids, (std::vector<std::int32_t>{0, 0, 4242}));
  expect_error(ErrorKind::BadData, {"token 2684354559", "byte 5368709118", "is 4242"},
               [&] { raw.read(kTokens - 3, ids, 4242); });

  constexpr std::int32_t kHalf = kTokens / 2;
  write("big.idx", std::string("MMIDIDX\0\0", 9) + bytes_of<std::uint64_t>({1}) + '\x08' +
                       bytes_of<std::uint64_t>({2, 2}) + bytes_of<std::int32_t>({kHalf, kHalf}) +
                       bytes_of<std::int64_t>({0, kTokens}) + bytes_of<std::int64_t>({0, 2}));
  const TokenFile megatron = TokenFile::open(path("big"));
  EXPECT_EQ(megatron.format(), "megatron");
  EXPECT_EQ(megatron.tokens(), kTokens);
  megatron.read(kTokens - 3, ids);
  EXPECT_EQ(ids[2], 4242);
}

}  // namespace
}  // namespace plimsoll
