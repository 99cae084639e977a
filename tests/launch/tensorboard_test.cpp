#include "launch/tensorboard.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <stdexcept>
#include <vector>

#include "runtime/core/error.hpp"
#include "tests/support/temp_folder.hpp"

namespace plimsoll {
namespace {

TEST(Crc32c, KnownValues) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283U);
  EXPECT_EQ(crc32c(""), 0U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAU);  // RFC 3720, B.4
}

template <class T>
T number_at(std::string_view text, std::size_t at) {
  T value;
  std::memcpy(&value, text.substr(at, sizeof(T)).data(), sizeof(T));
  return value;
}

// The records of a TFRecord file: length, its checksum, data, their checksum.
std::vector<std::string_view> read_records(std::string_view text) {
  const auto unmasked = [](std::uint32_t masked) {
    const std::uint32_t rotated = masked - 0xA282EAD8U;
    return (rotated >> 17) | (rotated << 15);
  };
  constexpr std::size_t kHead = 12, kTail = 4;
  std::vector<std::string_view> records;
  for (std::size_t at = 0; at < text.size(); at += kHead + records.back().size() + kTail) {
    if (text.size() - at < kHead) throw std::runtime_error("the file ends in a length");
    const auto length = number_at<std::uint64_t>(text, at);
    if (text.size() - at < kHead + length + kTail) throw std::runtime_error("the file ends in a record");
    records.push_back(text.substr(at + kHead, length));
    EXPECT_EQ(unmasked(number_at<std::uint32_t>(text, at + 8)), crc32c(text.substr(at, 8)));
    EXPECT_EQ(unmasked(number_at<std::uint32_t>(text, at + kHead + length)), crc32c(records.back()));
  }
  return records;
}

// A protobuf message by number of field, each once, as it is on the wire and without our declaration of it: what a
// varint says, or the bytes of everything else.
struct Field {
  std::uint64_t varint = 0;
  std::string_view bytes = {};
};
std::map<std::uint64_t, Field> read_message(std::string_view text) {
  std::map<std::uint64_t, Field> fields;
  std::size_t at = 0;
  const auto varint = [&] {
    std::uint64_t value = 0;
    for (unsigned shift = 0;; shift += 7) {
      const auto byte = static_cast<unsigned char>(text.at(at++));
      value |= std::uint64_t{byte & 0x7FU} << shift;
      if ((byte & 0x80U) == 0) return value;
    }
  };
  while (at < text.size()) {
    const std::uint64_t key = varint();
    Field field;
    const std::uint64_t wire = key & 7U;
    if (wire == 0) {
      field.varint = varint();
    } else {
      if (wire != 1 && wire != 2 && wire != 5) throw std::runtime_error("no such wire type");
      const std::size_t length = wire == 1 ? 8 : wire == 5 ? 4 : varint();
      field.bytes = text.substr(at, length);
      if (field.bytes.size() < length) throw std::runtime_error("a field ends behind its message");
      at += length;
    }
    EXPECT_TRUE(fields.emplace(key >> 3, field).second);
  }
  return fields;
}

// tensorflow/core/util/event.proto: Event has wall_time = 1 (double), step = 2, file_version = 3, summary = 5; Summary
// has value = 1; Summary.Value has tag = 1, simple_value = 2 (float).
TEST(TensorBoardWriter, WhatIsWrittenReadsBack) {
  const test::TempFolder folder;
  std::string path;
  {
    TensorBoardWriter writer(folder.path().string());
    writer.scalar("train/loss", 5, 2.5);
    writer.scalar("validation/loss", 1'000'000'000'000, -0.125);
    path = writer.path();
  }
  EXPECT_EQ(path.find((folder / "events.out.tfevents.").string()), 0U);
  const std::string text = test::read_text(path);
  const std::vector<std::string_view> records = read_records(text);
  ASSERT_EQ(records.size(), 3U);
  EXPECT_EQ(read_message(records[0]).at(3).bytes, "brain.Event:2");
  const auto expect_scalar = [&](std::string_view record, std::string_view tag, std::uint64_t step, float value) {
    const auto event = read_message(record);
    EXPECT_GT(number_at<double>(event.at(1).bytes, 0), 1.6e9);  // since 1970, in seconds
    EXPECT_EQ(event.at(2).varint, step);
    const auto scalar = read_message(read_message(event.at(5).bytes).at(1).bytes);
    EXPECT_EQ(scalar.at(1).bytes, tag);
    EXPECT_EQ(number_at<float>(scalar.at(2).bytes, 0), value);
  };
  expect_scalar(records[1], "train/loss", 5, 2.5F);
  expect_scalar(records[2], "validation/loss", 1'000'000'000'000, -0.125F);
}

TEST(TensorBoardWriter, AFolderThatIsNotThereIsAnError) {
  const test::TempFolder folder;
  EXPECT_THROW(TensorBoardWriter((folder / "missing").string()), Error);
}

}  // namespace
}  // namespace plimsoll
