#include "runtime/plan/replay.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace plimsoll {
namespace {

using enum AccessKind;

std::vector<PlacedItem> plan() { return {{"qkv", 512, 0, 2, 0}, {"scores", 256, 1, 3, 512}, {"out", 512, 3, 4, 0}}; }

std::vector<Access> uses() {
  return {{0, 0, Write}, {1, 1, Write}, {2, 0, Read}, {3, 1, Read}, {3, 2, Write}, {4, 2, Read}};
}

void expect_violation(const std::vector<PlacedItem>& items, const std::vector<Access>& accesses, std::int64_t peak,
                      const std::vector<std::string>& words) {
  const auto violation = replay(items, accesses, peak);
  ASSERT_TRUE(violation.has_value());
  for (const auto& word : words) EXPECT_NE(violation->find(word), std::string::npos) << *violation;
}

TEST(Replay, AcceptsAGoodPlan) { EXPECT_EQ(replay(plan(), uses(), 768).value_or("valid"), "valid"); }

TEST(Replay, OrderOfAccessesDoesNotMatter) {
  auto accesses = uses();
  std::swap(accesses[0], accesses[5]);
  EXPECT_EQ(replay(plan(), accesses, 768).value_or("valid"), "valid");
}

TEST(Replay, RejectsOverlapBelowAndAbove) {
  auto items = plan();
  items[1].offset = 511;
  expect_violation(items, {}, 767, {"'qkv'", "'scores'", "position 1"});
  items = plan();
  items[0].offset = 700;
  expect_violation(items, {}, 1212, {"'qkv'", "'scores'", "position 1"});
  items = plan();
  items[2].first = 2;  // shares position 2 with qkv
  expect_violation(items, {}, 768, {"'qkv'", "'out'", "position 2"});
}

TEST(Replay, RejectsAWrongPeak) {
  expect_violation(plan(), uses(), 767, {"claims", "767", "768"});
  expect_violation(plan(), uses(), 1024, {"claims", "1024", "768"});
}

TEST(Replay, RejectsMalformedItems) {
  auto items = plan();
  items[0].offset = -512;
  expect_violation(items, {}, 768, {"'qkv'", "negative"});
  items = plan();
  items[1].bytes = 0;
  expect_violation(items, {}, 768, {"'scores'", "0 bytes"});
  items = plan();
  items[2].last = 2;
  expect_violation(items, {}, 768, {"'out'", "ends"});
}

TEST(Replay, RejectsReadBeforeWrite) {
  auto accesses = uses();
  accesses[1].kind = Read;
  expect_violation(plan(), accesses, 768, {"'scores'", "position 1", "before it is written"});
  accesses = uses();
  accesses[0].position = 2;  // written where it is read: the read comes first
  expect_violation(plan(), accesses, 768, {"'qkv'", "before it is written"});
  accesses = uses();
  accesses.erase(accesses.begin() + 4);  // out still finds the bytes of qkv
  expect_violation(plan(), accesses, 768, {"'out'", "'qkv'", "wrote there last"});
}

TEST(Replay, RejectsAccessOutsideTheLifetime) {
  auto accesses = uses();
  accesses[2].position = 3;
  expect_violation(plan(), accesses, 768, {"'qkv'", "position 3", "outside its lifetime"});
  accesses = uses();
  accesses[2].item = 3;
  expect_violation(plan(), accesses, 768, {"item 3 of 3"});
}

}  // namespace
}  // namespace plimsoll
