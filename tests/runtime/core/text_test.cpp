#include "runtime/core/text.hpp"

#include <gtest/gtest.h>

namespace plimsoll {
namespace {

TEST(Text, ParsesByteSizes) {
  EXPECT_EQ(parse_bytes("512"), 512);
  EXPECT_EQ(parse_bytes(" 512 B "), 512);
  EXPECT_EQ(parse_bytes("1.5 GiB"), 1610612736);
  EXPECT_EQ(parse_bytes("2GB"), 2000000000);
  EXPECT_EQ(parse_bytes("64 MiB"), 64 << 20);
  EXPECT_EQ(parse_bytes("1 KB"), 1000);
  EXPECT_EQ(parse_bytes("0"), 0);
}

TEST(Text, RejectsWhatIsNotAByteSize) {
  for (const char* text : {"", "GiB", "-1", "1 gib", "1 GiBs", "nan", "inf", "1e30 TiB", "1 2"}) {
    EXPECT_EQ(parse_bytes(text), std::nullopt) << text;
  }
}

TEST(Text, FormatsBytes) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(123), "123 B");
  EXPECT_EQ(format_bytes(1024), "1.00 KiB");
  EXPECT_EQ(format_bytes(1610612736), "1.50 GiB");
  EXPECT_EQ(format_bytes(std::int64_t{5} << 40), "5.00 TiB");
}

TEST(Text, FormatsCounts) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(1000), "1,000");
  EXPECT_EQ(format_count(12345678), "12,345,678");
  EXPECT_EQ(format_count(-123456), "-123,456");
}

TEST(Text, FindsTheNearestName) {
  const std::vector<std::string> names{"warmup", "min_lr", "name"};
  EXPECT_EQ(nearest_name("warmpu", names), "warmup");
  EXPECT_EQ(nearest_name("nam", names), "name");
  EXPECT_EQ(nearest_name("momentum", names), std::nullopt);
  EXPECT_EQ(nearest_name("x", {}), std::nullopt);
}

TEST(Text, Joins) {
  EXPECT_EQ(join({}, ", "), "");
  const std::vector<std::string> parts{"a", "b", "c"};
  EXPECT_EQ(join(parts, " | "), "a | b | c");
}

}  // namespace
}  // namespace plimsoll
