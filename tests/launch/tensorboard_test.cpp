#include "launch/tensorboard.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "runtime/core/error.hpp"
#include "tests/support/temp_folder.hpp"

namespace plimsoll {
namespace {

TEST(Crc32c, KnownValues) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283U);
  EXPECT_EQ(crc32c(""), 0U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAU);  // RFC 3720, B.4
}

// Event.step is field 2, Summary.Value.simple_value field 2 of field 1 of field 5 (tensorflow/core/util/event.proto).
TEST(TensorBoardWriter, ScalarsAreEventsWithTagStepAndValue) {
  const test::TempFolder folder;
  std::string path;
  {
    TensorBoardWriter writer(folder.path().string());
    writer.scalar("train/loss", 5, 2.5);
    path = writer.path();
  }
  EXPECT_EQ(path.find((folder / "events.out.tfevents.").string()), 0U);
  const std::string text = test::read_text(path);
  const std::size_t tag = text.find("train/loss");
  ASSERT_NE(tag, std::string::npos);
  EXPECT_EQ(text[tag - 2], '\x0A');   // field 1, bytes
  EXPECT_EQ(text[tag - 1], '\x0A');   // ten of them
  EXPECT_EQ(text[tag + 10], '\x15');  // field 2, four bytes
  float value = 0;
  std::memcpy(&value, text.data() + tag + 11, sizeof(value));
  EXPECT_EQ(value, 2.5F);
  EXPECT_NE(text.find(std::string("\x10\x05", 2)), std::string::npos);  // step = 5
}

TEST(TensorBoardWriter, AFolderThatIsNotThereIsAnError) {
  const test::TempFolder folder;
  EXPECT_THROW(TensorBoardWriter((folder / "missing").string()), Error);
}

}  // namespace
}  // namespace plimsoll
