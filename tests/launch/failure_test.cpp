#include "launch/failure.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <new>
#include <nlohmann/json.hpp>

#include "runtime/core/error.hpp"
#include "tests/support/temp_folder.hpp"

namespace plimsoll {
namespace {

using test::TempFolder;

const auto kNoPeers = [](int) {};

TEST(FailureDeathTest, LineAndCodeAreThoseOfTheError) {
  const Error error(ErrorKind::BadData, "x.bin: token 70000 of 50257");
  EXPECT_EXIT(fail_run({3, "node7", 12, ""}, error, kNoPeers),
              testing::ExitedWithCode(static_cast<int>(ErrorKind::BadData)),
              "FATAL code=65 kind=bad_data rank=3 host=node7 step=12 file=failure_test.cpp:[0-9]+: x.bin: token 70000 "
              "of 50257");
}

TEST(FailureDeathTest, ForeignExceptionsAreDefectsAndBadAllocIsOutOfMemory) {
  EXPECT_EXIT(fail_run({0, "h", -1, ""}, std::runtime_error("oops"), kNoPeers),
              testing::ExitedWithCode(static_cast<int>(ErrorKind::Internal)),
              "FATAL code=70 kind=[a-z_]+ rank=0 host=h step=- file=unknown: oops");
  EXPECT_EXIT(fail_run({0, "h", -1, ""}, std::bad_alloc(), kNoPeers),
              testing::ExitedWithCode(static_cast<int>(ErrorKind::OutOfMemory)), "FATAL code=71 kind=out_of_memory");
}

TEST(FailureDeathTest, ReasonFileLiesInTheRunDirectory) {
  const TempFolder folder;
  const Error error(ErrorKind::PeerLost, "rank 2 is gone \xff");  // text of any bytes
  EXPECT_EXIT(fail_run({1, "node7", 40, folder.path().string()}, error, kNoPeers),
              testing::ExitedWithCode(static_cast<int>(ErrorKind::PeerLost)), "FATAL");
  const auto reason = nlohmann::json::parse(test::read_text(folder / "exit_reason.1.json"));
  EXPECT_EQ(reason["code"], static_cast<int>(ErrorKind::PeerLost));
  EXPECT_EQ(reason["kind"], "peer_lost");
  EXPECT_EQ(reason["rank"], 1);
  EXPECT_EQ(reason["host"], "node7");
  EXPECT_EQ(reason["step"], 40);
  EXPECT_NE(reason["text"].get<std::string>().find("rank 2 is gone"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(folder / "exit_reason.1.json.tmp"));
}

// Whoever starts runs again must learn from the file that this one never fits; of other failures nothing is left.
TEST(FailureDeathTest, OutOfMemoryMakesTheRunDirectoryForItsReason) {
  const TempFolder folder;
  const std::string run = (folder / "runs/new").string();
  EXPECT_EXIT(fail_run({0, "h", -1, run}, Error(ErrorKind::Config, "no"), kNoPeers),
              testing::ExitedWithCode(static_cast<int>(ErrorKind::Config)), "FATAL");
  EXPECT_FALSE(std::filesystem::exists(run));
  EXPECT_EXIT(fail_run({0, "h", -1, run}, Error(ErrorKind::OutOfMemory, "3 MiB too much"), kNoPeers),
              testing::ExitedWithCode(static_cast<int>(ErrorKind::OutOfMemory)), "FATAL");
  const auto reason = nlohmann::json::parse(test::read_text(folder / "runs/new/exit_reason.0.json"));
  EXPECT_EQ(reason["code"], 71);
  EXPECT_EQ(reason["text"], "3 MiB too much");
}

TEST(FailureDeathTest, PeersAreAbortedWithTheCode) {
  const Error error(ErrorKind::Config, "no");
  EXPECT_EXIT(fail_run({0, "h", -1, ""}, error, [](int code) { _exit(code + 100); }),
              testing::ExitedWithCode(static_cast<int>(ErrorKind::Config) + 100), "FATAL code=78");
}

TEST(Failure, WhatAllRanksFoundIsPrintedByTheLowest) {
  const std::uint64_t one = failure_hash(Error(ErrorKind::Config, "a")), other = failure_hash(std::runtime_error("a"));
  EXPECT_NE(one, other);
  const std::vector<std::uint64_t> all{one, one, other, other};
  EXPECT_FALSE(is_printed_by_another(all, 0));
  EXPECT_TRUE(is_printed_by_another(all, 1));
  EXPECT_FALSE(is_printed_by_another(all, 2));
  EXPECT_TRUE(is_printed_by_another(all, 3));
  EXPECT_FALSE(is_printed_by_another({}, 3)) << "the others did not answer";
}

TEST(FailureDeathTest, ASilentRankLeavesItsReasonFile) {
  const TempFolder folder;
  const Error error(ErrorKind::Config, "no");
  EXPECT_EXIT(fail_run({1, "h", -1, folder.path().string(), true}, error, kNoPeers),
              testing::ExitedWithCode(static_cast<int>(ErrorKind::Config)), "^$");
  EXPECT_TRUE(std::filesystem::exists(folder / "exit_reason.1.json"));
}

TEST(Failure, ReasonFilesOfEarlierRunsAreRemoved) {
  const TempFolder folder;
  for (const char* name : {"exit_reason.0.json", "exit_reason.1.json", "exit_reason.7.json", "config.yaml"})
    test::write_text(folder / name, "{}");
  clear_exit_reasons(folder.path().string(), 0, 2);
  EXPECT_FALSE(std::filesystem::exists(folder / "exit_reason.0.json"));
  EXPECT_TRUE(std::filesystem::exists(folder / "exit_reason.1.json")) << "that is rank 1's to remove";
  EXPECT_FALSE(std::filesystem::exists(folder / "exit_reason.7.json"));
  EXPECT_TRUE(std::filesystem::exists(folder / "config.yaml"));
  clear_exit_reasons(folder.path().string(), 1, 2);
  EXPECT_FALSE(std::filesystem::exists(folder / "exit_reason.1.json"));
  clear_exit_reasons((folder / "none").string(), 0, 2);
}

}  // namespace
}  // namespace plimsoll
