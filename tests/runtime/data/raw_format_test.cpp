#include "runtime/data/raw_format.hpp"

#include "tests/runtime/data/data_test_support.hpp"

namespace plimsoll {
namespace {

class RawFormatTest : public DataTest {
 protected:
  template <class T>
  TokenType detect(const std::vector<T>& ids, std::int64_t vocabulary) const {
    const std::string file = write("raw.bin", {reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(T)});
    return detect_raw_type(InputFile::open(file), vocabulary);
  }
  // Ids all over the vocabulary.
  template <class T>
  static std::vector<T> some(std::size_t count, std::int64_t vocabulary) {
    std::vector<T> ids(count);
    for (std::size_t i = 0; i < count; ++i)
      ids[i] = static_cast<T>((i * 7919 + 3) % static_cast<std::uint64_t>(vocabulary));
    return ids;
  }
};

TEST_F(RawFormatTest, TheIdsDecide) {
  for (const std::int64_t vocabulary : {65, 257, 50257, 65536, 128256, 200000}) {
    EXPECT_EQ(detect(some<std::uint32_t>(5000, vocabulary), vocabulary), TokenType::Uint32) << vocabulary;
    EXPECT_EQ(detect(some<std::uint16_t>(5000, std::min<std::int64_t>(vocabulary, 65536)), vocabulary),
              TokenType::Uint16)
        << vocabulary;
    EXPECT_EQ(detect(some<std::uint16_t>(5001, 65), vocabulary), TokenType::Uint16) << "an odd number of words";
  }
  // Over several blocks, a single pair at the end decides.
  std::vector<std::uint32_t> wide(700000, 5);
  wide.back() = 70000;
  EXPECT_EQ(detect(wide, 70001), TokenType::Uint32);
  std::vector<std::uint16_t> narrow(1400000, 0);
  narrow.back() = 64;
  EXPECT_EQ(detect(narrow, 65), TokenType::Uint16);
}

TEST_F(RawFormatTest, WhatFitsNeitherIsBad) {
  auto ids = some<std::uint32_t>(5000, 1000);
  ids[100] = 1001;
  expect_error(ErrorKind::BadData, {"raw.bin", "uint16", "uint32", "byte 400 is 1001", "vocabulary of 1000"},
               [&] { detect(ids, 1000); });
}

TEST_F(RawFormatTest, WhatCannotBeKnownIsAskedFor) {
  expect_error(ErrorKind::Config, {"raw.bin", "data.dtype"}, [&] { detect(std::vector<std::uint32_t>{5, 6, 7}, 100); });
  expect_error(ErrorKind::Config, {"raw.bin", "data.dtype"}, [&] { detect(std::vector<std::uint16_t>(1000, 0), 100); });
}

}  // namespace
}  // namespace plimsoll
