#include "launch/measured.hpp"

#include <gtest/gtest.h>

#include "tests/support/environment.hpp"
#include "tests/support/temp_folder.hpp"

namespace plimsoll {
namespace {

TEST(Measured, TheLastRunOfThisBinaryIsRemembered) {
  const test::TempFolder folder;
  const test::EnvironmentVariable cache("XDG_CACHE_HOME", folder.path().c_str());
  EXPECT_EQ(remembered_outside_bytes(1), std::nullopt);
  remember_outside_bytes(1, 100);
  remember_outside_bytes(4, 300);
  remember_outside_bytes(1, 120);
  EXPECT_EQ(remembered_outside_bytes(1), 120);
  EXPECT_EQ(remembered_outside_bytes(4), 300);
  EXPECT_EQ(remembered_outside_bytes(2), 300) << "the largest of what is known";
  test::write_text(folder / "plimsoll/outside.json", R"({"build": "another", "outside_bytes": {"1": 7}})");
  EXPECT_EQ(remembered_outside_bytes(1), std::nullopt);
  test::write_text(folder / "plimsoll/outside.json", "{");
  EXPECT_EQ(remembered_outside_bytes(1), std::nullopt);
}

}  // namespace
}  // namespace plimsoll
