#include "runtime/core/error.hpp"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace plimsoll {
namespace {

TEST(Error, CarriesKindTextAndTheCallersPlace) {
  try {
    fail(ErrorKind::BadData, "{} has {} tokens", "train.bin", 7);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::BadData);
    EXPECT_STREQ(e.what(), "train.bin has 7 tokens");
    EXPECT_NE(std::string(e.where().file_name()).find("error_test.cpp"), std::string::npos);
    EXPECT_GT(e.where().line(), 10U);
  }
}

TEST(Error, RequireThrowsOnlyWhenTheConditionFails) {
  EXPECT_NO_THROW(require(true, ErrorKind::Config, "never"));
  try {
    require(false, ErrorKind::Config, "lr is {}", -1);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::Config);
    EXPECT_STREQ(e.what(), "lr is -1");
  }
}

TEST(Error, EveryExitCodeIsUniqueAndNamed) {
  std::set<int> codes;
  std::set<std::string_view> names;
  for (const ExitCode& c : kExitCodes) {
    EXPECT_TRUE(codes.insert(static_cast<int>(c.kind)).second);
    EXPECT_TRUE(names.insert(c.name).second);
    EXPECT_FALSE(c.meaning.empty());
    EXPECT_EQ(&exit_code(c.kind), &c);
    EXPECT_GT(static_cast<int>(c.kind), 0);
    EXPECT_LT(static_cast<int>(c.kind), 126);  // beyond lie the shell's own
  }
}

}  // namespace
}  // namespace plimsoll
