#include "runtime/checkpoint/safetensors.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "runtime/checkpoint/safetensors_header.hpp"
#include "runtime/checkpoint/safetensors_writer.hpp"
#include "runtime/core/error.hpp"
#include "tests/support/temp_folder.hpp"

namespace plimsoll {
namespace {

using test::TempFolder;

std::string file_of(std::string_view header, std::size_t data_bytes,
                    std::optional<std::uint64_t> length = std::nullopt) {
  const std::uint64_t bytes = length.value_or(header.size());
  std::string text(8, '\0');
  std::memcpy(text.data(), &bytes, 8);
  return text.append(header).append(data_bytes, '\1');
}

std::string tensor(std::string_view name, std::string_view dtype, std::string_view shape, std::string_view offsets) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{}]}})", name, dtype, shape, offsets);
}

// The message of the BadData that opening `content` gives; empty when it opens.
std::string complaint(const std::filesystem::path& path, const std::string& content) {
  test::write_text(path, content);
  try {
    SafetensorsFile::open(path);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::BadData) << error.what();
    return error.what();
  }
  return "";
}

struct Case {
  std::string what;
  std::string content;
  std::string expected;  // part of the message
};

std::vector<Case> bad_prefixes() {
  return {
      {"empty file", "", "has 0 bytes"},
      {"seven bytes", std::string(7, '\0'), "has 7 bytes"},
      {"length only", file_of("", 0, 2), "beyond the end"},
      {"length zero", file_of("", 0, 0), "too short"},
      {"length one", file_of("{", 0, 1), "too short"},
      {"length past the end", file_of("{}", 0, 3), "beyond the end"},
      {"length 100 MB + 1", file_of("{}", 0, 100'000'001), "more than the 100000000"},
      {"length of all ones", file_of("{}", 0, ~std::uint64_t{0}), "more than"},
      {"negative length", file_of("{}", 0, std::uint64_t{1} << 63), "more than"},
      {"length + 8 overflows", file_of("{}", 0, ~std::uint64_t{0} - 7), "more than"},
      {"header cut short", file_of("{}   ", 0, 1), "too short"},
      {"big endian length", std::string("\0\0\0\0\0\0\0\2{}", 10), "more than"},
  };
}

std::vector<Case> bad_json() {
  const std::string good = tensor("a", "F32", "1", "0,4");
  std::string nested = "{\"a\":";
  for (int i = 0; i < 200'000; ++i) nested += '[';
  std::string with_nul = "{}";
  with_nul += '\0';
  return {
      {"leading space", file_of(" {}", 0), "does not start"},
      {"byte order mark", file_of("\xEF\xBB\xBF{}", 0), "does not start"},
      {"array", file_of("[]", 0), "does not start"},
      {"string", file_of("\"a\"", 0), "does not start"},
      {"unclosed object", file_of("{" + good, 4), "not valid JSON"},
      {"unclosed name", file_of("{\"a", 0), "not valid JSON"},
      {"trailing comma", file_of("{" + good + ",}", 4), "not valid JSON"},
      {"two objects", file_of("{" + good + "}{}", 4), "not valid JSON"},
      {"text after the object", file_of("{} x", 0), "not valid JSON"},
      {"NUL after the object", file_of(with_nul, 0), "NUL"},
      {"NUL hides an object", file_of(std::string("{}\0{\"a\"", 7), 0), "NUL"},
      {"NUL in a name", file_of(std::string("{\"a\0b\":1}", 9), 0), "NUL"},
      {"control character in a name", file_of("{\"a\nb\":{}}", 0), "not valid JSON"},
      {"bad UTF-8", file_of("{\"\xC3\x28\":{}}", 0), "not valid JSON"},
      {"overlong UTF-8", file_of("{\"\xC0\xAF\":{}}", 0), "not valid JSON"},
      {"lone surrogate", file_of(R"({"\uD800":{}})", 0), "not valid JSON"},
      {"bad escape", file_of(R"({"\q":{}})", 0), "not valid JSON"},
      {"comment", file_of("{/**/}", 0), "not valid JSON"},
      {"single quotes", file_of("{'a':{}}", 0), "not valid JSON"},
      {"NaN", file_of(R"({"a":NaN})", 0), "not valid JSON"},
      {"deep nesting", file_of(nested, 0), "tensor 'a'"},
      {"huge name", file_of("{\"" + std::string(3'000'000, 'a') + "\":{}}", 0), "more than 2097152"},
      {"huge number", file_of("{\"a\":{\"shape\":[" + std::string(3'000'000, '1') + "]}}", 0), "more than 2097152"},
      {"huge escaped name", file_of("{\"" + std::string(3'000'000, '\\') + "\":{}}", 0), "more than 2097152"},
  };
}

std::vector<Case> bad_descriptions() {
  const std::string good = tensor("a", "F32", "1", "0,4");
  const auto field = [](std::string_view inside) { return file_of(fmt::format("{{\"a\":{{{}}}}}", inside), 4); };
  return {
      {"null", file_of(R"({"a":null})", 0), "tensor 'a'"},
      {"number", file_of(R"({"a":1})", 0), "tensor 'a'"},
      {"true", file_of(R"({"a":true})", 0), "tensor 'a'"},
      {"text", file_of(R"({"a":"F32"})", 0), "tensor 'a'"},
      {"list", file_of(R"({"a":[]})", 0), "tensor 'a'"},
      {"no fields", field(""), "dtype is missing"},
      {"no dtype", field(R"("shape":[1],"data_offsets":[0,4])"), "dtype is missing"},
      {"no shape", field(R"("dtype":"F32","data_offsets":[0,4])"), "shape is missing"},
      {"no offsets", field(R"("dtype":"F32","shape":[1])"), "data_offsets must be"},
      {"dtype twice", field(R"("dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4])"), "dtype appears twice"},
      {"shape twice", field(R"("dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4])"), "shape appears twice"},
      {"unknown field", field(R"("dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1)"), "'x' is not known"},
      {"unknown dtype", field(R"("dtype":"F31","shape":[1],"data_offsets":[0,4])"), "'F31' is not known"},
      {"dtype in small letters", field(R"("dtype":"f32","shape":[1],"data_offsets":[0,4])"), "'f32' is not known"},
      {"dtype as number", field(R"("dtype":32,"shape":[1],"data_offsets":[0,4])"), "tensor 'a'"},
      {"shape as number", field(R"("dtype":"F32","shape":1,"data_offsets":[0,4])"), "tensor 'a'"},
      {"negative dim", field(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"), "negative"},
      {"two negative dims", field(R"("dtype":"F32","shape":[-1,-1],"data_offsets":[0,4])"), "negative"},
      {"dim 1.0", field(R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])"), "integer"},
      {"dim 1e0", field(R"("dtype":"F32","shape":[1e0],"data_offsets":[0,4])"), "integer"},
      {"dim as text", field(R"("dtype":"F32","shape":["1"],"data_offsets":[0,4])"), "tensor 'a'"},
      {"nested shape", field(R"("dtype":"F32","shape":[[1]],"data_offsets":[0,4])"), "tensor 'a'"},
      {"dim of 64 bits", field(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4])"), "63-bit"},
      {"dim beyond 64 bits", field(R"("dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4])"), "integer"},
      {"seven dims", field(R"("dtype":"F32","shape":[1,1,1,1,1,1,1],"data_offsets":[0,4])"), "more than 6 dims"},
      {"product overflows", field(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])"),
       "overflows"},
      {"bytes overflow", field(R"("dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4])"), "overflows"},
      {"overflow to zero", field(R"("dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0])"), "overflows"},
      {"one offset", field(R"("dtype":"F32","shape":[1],"data_offsets":[4])"), "two integers"},
      {"three offsets", field(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,4])"), "more than two"},
      {"offsets as object", field(R"("dtype":"F32","shape":[1],"data_offsets":{"0":4})"), "tensor 'a'"},
      {"negative offset", field(R"("dtype":"F32","shape":[1],"data_offsets":[-4,0])"), "negative"},
      {"offsets backwards", field(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), "backwards"},
      {"offsets beyond the file", field(R"("dtype":"F32","shape":[1000],"data_offsets":[0,4000])"), "beyond the end"},
      {"offset of 64 bits", field(R"("dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615])"), "63-bit"},
      {"size too small", field(R"("dtype":"F32","shape":[1],"data_offsets":[0,3])"), "takes 4 bytes"},
      {"size too large", field(R"("dtype":"F32","shape":[0],"data_offsets":[0,4])"), "takes 0 bytes"},
      {"half a byte", field(R"("dtype":"F4","shape":[7],"data_offsets":[0,3])"), "takes"},
      {"tensor twice", file_of("{" + good + "," + good + "}", 4), "appears twice"},
      {"escaped tensor twice", file_of("{" + good + "," + tensor(R"(\u0061)", "F32", "1", "4,8") + "}", 8), "twice"},
      {"control characters shown", file_of(R"({"a\u001b[31m":1})", 0), "'a?[31m'"},
  };
}

std::vector<Case> bad_layouts() {
  const std::string a = tensor("a", "F32", "1", "0,4");
  return {
      {"overlap", file_of("{" + a + "," + tensor("b", "F32", "1", "2,6") + "}", 6), "overlapping"},
      {"same bytes twice", file_of("{" + a + "," + tensor("b", "F32", "1", "0,4") + "}", 4), "overlapping"},
      {"gap", file_of("{" + a + "," + tensor("b", "F32", "1", "8,12") + "}", 12), "gap"},
      {"gap at the front", file_of("{" + tensor("b", "F32", "1", "4,8") + "}", 8), "gap"},
      {"empty tensor inside another", file_of("{" + a + "," + tensor("b", "F32", "0", "2,2") + "}", 4), "overlapping"},
      {"empty tensor beyond", file_of("{" + a + "," + tensor("b", "F32", "0", "9,9") + "}", 4), "gap"},
      {"trailing byte", file_of("{" + a + "}", 5), "tensors end at byte"},
      {"missing byte", file_of("{" + a + "}", 3), "tensors end at byte"},
      {"data without tensors", file_of("{}", 1), "tensors end at byte"},
      {"metadata as list", file_of(R"({"__metadata__":[]})", 0), "__metadata__"},
      {"metadata as null", file_of(R"({"__metadata__":null})", 0), "__metadata__"},
      {"metadata with number", file_of(R"({"__metadata__":{"a":1}})", 0), "must be strings"},
      {"metadata nested", file_of(R"({"__metadata__":{"a":{}}})", 0), "must be strings"},
      {"metadata key twice", file_of(R"({"__metadata__":{"a":"1","a":"2"}})", 0), "twice"},
      {"metadata twice", file_of(R"({"__metadata__":{},"__metadata__":{}})", 0), "twice"},
      {"metadata as tensor", file_of("{" + tensor("__metadata__", "F32", "1", "0,4") + "}", 4), "__metadata__"},
  };
}

TEST(Safetensors, MalformedFilesAreRefusedByRule) {
  const TempFolder folder;
  const std::filesystem::path path = folder / "odd.safetensors";
  std::size_t count = 0;
  for (const auto& cases : {bad_prefixes(), bad_json(), bad_descriptions(), bad_layouts()}) {
    for (const Case& c : cases) {
      const std::string message = complaint(path, c.content);
      EXPECT_NE(message.find("odd.safetensors"), std::string::npos) << c.what << ": " << message;
      EXPECT_NE(message.find(c.expected), std::string::npos) << c.what << ": " << message;
      EXPECT_LT(message.size(), 600U) << c.what;
      ++count;
    }
  }
  EXPECT_GE(count, 70U);
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const TempFolder folder;
  const std::vector<float> values(16, 1.5F);
  write_safetensors(folder / "whole.safetensors",
                    std::vector<TensorSource>{{"x", {{4, 4}, DType::f32}, values.data()}});
  const std::string whole = test::read_text(folder / "whole.safetensors");
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes)
    EXPECT_NE(complaint(folder / "cut.safetensors", whole.substr(0, bytes)), "") << bytes;
  EXPECT_EQ(complaint(folder / "cut.safetensors", whole), "");
}

TEST(Safetensors, EveryFlippedHeaderBitOpensOrIsRefused) {
  const TempFolder folder;
  const std::vector<float> values(4, 1.5F);
  write_safetensors(folder / "whole.safetensors",
                    std::vector<TensorSource>{{"x", {{2, 2}, DType::f32}, values.data()}});
  const std::string whole = test::read_text(folder / "whole.safetensors");
  for (std::size_t bit = 0; bit < (whole.size() - 16) * 8; ++bit) {
    std::string flipped = whole;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    complaint(folder / "flipped.safetensors", flipped);  // checks the kind; names and metadata may change unseen
  }
}

TEST(Safetensors, HeadersThatWouldNeedMuchMemoryAreRefused) {
  const TempFolder folder;
  std::string header = "{";
  for (int i = 0; i < 250'000; ++i)
    header += fmt::format("{}{}", i == 0 ? "" : ",", tensor(std::to_string(i), "U8", "0", "0,0"));
  EXPECT_NE(complaint(folder / "many.safetensors", file_of(header + "}", 0)).find("of memory"), std::string::npos);
  EXPECT_EQ(complaint(folder / "spaces.safetensors", file_of("{}" + std::string(8 << 20, ' '), 0)), "");
  // 100 MB of holes: refused at the first byte that is not JSON.
  test::write_text(folder / "sparse.safetensors", file_of("{", 0, 100'000'000));
  std::filesystem::resize_file(folder / "sparse.safetensors", 100'000'008);
  EXPECT_THROW(SafetensorsFile::open(folder / "sparse.safetensors"), Error);
}

TEST(Safetensors, OddButLegalFilesOpen) {
  const TempFolder folder;
  const std::filesystem::path path = folder / "legal.safetensors";
  EXPECT_EQ(complaint(path, file_of("{}", 0)), "");
  EXPECT_EQ(complaint(path, file_of("{}\n \t ", 0)), "");
  EXPECT_EQ(complaint(path, file_of(R"({"__metadata__":{}})", 0)), "");
  EXPECT_EQ(complaint(path, file_of("{" + tensor("s", "F32", "", "0,4") + "}", 4)), "");
  EXPECT_EQ(complaint(path, file_of("{" + tensor("b", "I8", "2", "4,6") + "," + tensor("a", "F32", "1", "0,4") + "," +
                                        tensor("e", "F32", "0,7", "4,4") + "}",
                                    6)),
            "");
  const SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_EQ(file.tensors().size(), 3U);
  EXPECT_EQ(file.tensor("b").stored_dtype, "I8");
  EXPECT_FALSE(file.tensor("b").dtype.has_value());
  EXPECT_THROW(file.read_floats("b"), Error);
  EXPECT_TRUE(file.read_floats("e").empty());
  EXPECT_THROW(file.tensor("c"), Error);
}

TEST(Safetensors, RoundTrip) {
  const TempFolder folder;
  std::vector<float> floats(300'000);
  std::iota(floats.begin(), floats.end(), -7.0F);
  const std::vector<double> doubles{1e300, -0.0, 0.1};
  const std::vector<bf16> brains{bf16(1.5F), bf16(-3e38F)};
  const std::vector<f16> halves{f16(65504.0F), f16(6e-8F)};
  const std::vector<std::int32_t> tokens{1, -1, 7};
  const std::vector<std::uint8_t> odd{1, 2, 3};
  const auto produce = [&](std::int64_t offset, std::span<std::byte> out) {
    std::memcpy(out.data(), reinterpret_cast<const std::byte*>(floats.data()) + offset, out.size());
  };
  const std::vector<TensorSource> sources{{"odd", {{3}, DType::u8}, odd.data()},
                                          {"memory", {{600, 500}, DType::f32}, floats.data()},
                                          {"tokens", {{3}, DType::i32}, tokens.data()},
                                          {"produced", {{600, 500}, DType::f32}, nullptr, produce},
                                          {"halves", {{2}, DType::f16}, halves.data()},
                                          {"doubles", {{3}, DType::f64}, doubles.data()},
                                          {"brains", {{1, 2}, DType::bf16}, brains.data()},
                                          {"scalar", {{}, DType::f32}, floats.data()},
                                          {"empty", {{0, 4}, DType::f32}, nullptr}};
  const WrittenFile written =
      write_safetensors(folder / "x.safetensors", sources, {{"format", "pt"}, {"ключ", "\"\n"}});
  EXPECT_EQ(written.bytes, static_cast<std::int64_t>(std::filesystem::file_size(folder / "x.safetensors")));
  EXPECT_EQ(written.tensors.at("memory"), written.tensors.at("produced"));

  const SafetensorsFile file = SafetensorsFile::open(folder / "x.safetensors");
  EXPECT_EQ(file.metadata().at("ключ"), "\"\n");
  EXPECT_EQ(file.tensors().size(), sources.size());
  for (const auto& [name, entry] : file.tensors()) EXPECT_EQ(entry.begin % dtype_bytes(*entry.dtype), 0) << name;
  EXPECT_EQ(file.read_floats("memory"), floats);
  EXPECT_EQ(file.read_floats("produced"), floats);
  EXPECT_EQ(file.read_floats("scalar"), std::vector<float>{-7.0F});
  EXPECT_EQ(file.read_floats("brains"), (std::vector<float>{1.5F, static_cast<float>(bf16(-3e38F))}));
  EXPECT_EQ(file.read_floats("halves"), (std::vector<float>{65504.0F, 0x1p-24F}));
  std::vector<double> wide(3);
  file.read_into("doubles", {wide.data(), {{3}, DType::f64}});
  EXPECT_EQ(wide, doubles);
  std::vector<double> part(100'000);
  file.read_elements("memory", 150'001, 100'000, DType::f64, part.data());
  EXPECT_EQ(part.front(), 149'994.0);
  EXPECT_EQ(part.back(), 249'993.0);
  std::vector<std::int32_t> read_tokens(3);
  file.read("tokens", read_tokens.data(), 12);
  EXPECT_EQ(read_tokens, tokens);
}

TEST(Safetensors, ReadingChecksSizesAndTypes) {
  const TempFolder folder;
  const std::vector<float> values(6);
  write_safetensors(folder / "x.safetensors", std::vector<TensorSource>{{"x", {{2, 3}, DType::f32}, values.data()}});
  const SafetensorsFile file = SafetensorsFile::open(folder / "x.safetensors");
  std::vector<float> out(6);
  EXPECT_THROW(file.read("x", out.data(), 20), Error);
  EXPECT_THROW(file.read_into("x", {out.data(), {{3, 2}, DType::f32}}), Error);
  EXPECT_THROW(file.read_elements("x", 4, 3, DType::f32, out.data()), Error);
  EXPECT_THROW(file.read_elements("x", 0, 6, DType::i32, out.data()), Error);
  EXPECT_THROW(file.read_elements("x", 0, 1, DType::bf16, out.data()), Error);
  std::filesystem::resize_file(folder / "x.safetensors", 90);  // shrinks while it is open
  EXPECT_THROW(file.read_floats("x"), Error);
}

TEST(Safetensors, WritingFailsWithTheCauseAndLeavesNothing) {
  const TempFolder folder;
  const float value = 1;
  const std::vector<TensorSource> sources{{"x", {{1}, DType::f32}, &value}};
  try {
    write_safetensors(folder / "missing" / "x.safetensors", sources);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::CheckpointIo);
    EXPECT_NE(std::string(error.what()).find("No such file"), std::string::npos);
  }
  write_safetensors(folder / "x.safetensors", sources);
  write_safetensors(folder / "x.safetensors", sources);  // replaces
  const std::filesystem::directory_iterator entries(folder.path());
  EXPECT_EQ(std::distance(begin(entries), end(entries)), 1);
}

}  // namespace
}  // namespace plimsoll
