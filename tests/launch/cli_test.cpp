// Names that people and scripts type. They may be added to, not changed.

#include "launch/cli.hpp"

#include <gtest/gtest.h>

#include "launch/bootstrap.hpp"
#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

TEST(CommandLine, VerbsAndOptionsAreFrozen) {
  const std::string help = command_line_help();
  for (const char* verb :
       {"train", "eval", "probe", "generate", "data", "data prepare", "plan", "graph", "config", "info", "export"}) {
    EXPECT_NE(help.find(std::string("Usage: plimsoll ") + verb + " "), std::string::npos) << verb << " in\n" << help;
  }
  for (const char* option :
       {"CONFIG",        "--set",    "--json",    "--out",     "--tokenizer", "--like",    "--prompt", "--tokens",
        "--temperature", "--top-k",  "--top-p",   "--seed",    "--ranks",     "--budget",  "--peak",   "--gantt",
        "--gantt-svg",   "--verify", "--largest", "--program", "--dot",       "--version", "FROM",     "TO"}) {
    EXPECT_NE(help.find(option), std::string::npos) << option;
  }
}

int run(std::vector<std::string> words) {
  words.insert(words.begin(), "plimsoll");
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  MpiSession mpi;
  CommandContext context;
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  const auto release = [] {
    testing::internal::GetCapturedStdout();
    testing::internal::GetCapturedStderr();
  };
  try {
    const int code = run_command(static_cast<int>(argv.size()), argv.data(), mpi, context);
    release();
    return code;
  } catch (const Error& error) {
    release();
    return static_cast<int>(error.kind());
  }
}

TEST(CommandLine, WhatIsNotUnderstoodIsAUsageError) {
  const int usage = static_cast<int>(ErrorKind::Usage);
  EXPECT_EQ(usage, 64);
  EXPECT_EQ(run({}), usage);
  EXPECT_EQ(run({"trian", "x.yaml"}), usage);
  EXPECT_EQ(run({"train"}), usage);
  EXPECT_EQ(run({"plan", "x.yaml", "--rnaks", "2"}), usage);
  EXPECT_EQ(run({"plan", "x.yaml", "--ranks", "0"}), usage);
  EXPECT_EQ(run({"config", "--set", "train.steps=3"}), usage);
  EXPECT_EQ(run({"graph", "x.yaml", "--ranks", "2", "--rank", "2"}), usage);
  EXPECT_EQ(run({"data", "prepare", "x.txt", "--out", "x", "--tokenizer", "bytes"}), usage);
  EXPECT_EQ(run({"data", "prepare", "x.txt", "--out", "x", "--tokenizer", "byte", "--vocabulary", "500"}), usage);
  EXPECT_EQ(run({"data", "prepare", "x.txt", "--out", "x", "--tokenizer", "sentencepiece", "--vocabulary", "-5"}),
            usage);
  EXPECT_EQ(run({"data", "prepare", "x.txt", "--out", "x", "--tokenizer", "sentencepiece", "--model-type", "zzz"}),
            usage);
  EXPECT_EQ(run({"probe", "--largest", "12"}), usage);
  EXPECT_EQ(run({"probe", "--largest", "much"}), usage);
  EXPECT_EQ(run({"probe", "--set", "parallel.tensor=2"}), usage);
  EXPECT_EQ(run({"--help"}), 0);
  EXPECT_EQ(run({"--version"}), 0);
  EXPECT_EQ(run({"config"}), 0);
  EXPECT_EQ(run({"info", "--json"}), 0);
}

// What is printed about a command line that is not understood.
std::string said_of(std::vector<std::string> words) {
  words.insert(words.begin(), "plimsoll");
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  MpiSession mpi;
  CommandContext context;
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  run_command(static_cast<int>(argv.size()), argv.data(), mpi, context);
  return testing::internal::GetCapturedStdout() + testing::internal::GetCapturedStderr();
}

TEST(CommandLine, RangesAreInWords) {
  for (const auto& [words, text] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"plan", "x.yaml", "--ranks", "0"}, "--ranks: '0' is not a whole number from 1"},
           {{"plan", "x.yaml", "--ranks=-1"}, "--ranks: '-1' is not a whole number from 1"},
           {{"plan", "x.yaml", "--threads", "1.5"}, "--threads: '1.5' is not a whole number from 1"},
           {{"graph", "x.yaml", "--rank=-1"}, "--rank: '-1' is not a whole number from 0"},
           {{"eval", "x.yaml", "--batches", "0"}, "--batches: '0' is not a whole number from 1"}}) {
    const std::string said = said_of(words);
    EXPECT_NE(said.find(text), std::string::npos) << said;
  }
}

TEST(CommandLine, AWordThatIsNoVerbIsNamedWithTheNearest) {
  const std::string said = said_of({"trian"});
  EXPECT_NE(said.find("'trian'"), std::string::npos) << said;
  EXPECT_NE(said.find("did you mean 'train'?"), std::string::npos) << said;
}

TEST(CommandLine, AMissingConfigurationIsMissingInput) {
  EXPECT_EQ(run({"plan", "there/is/no/such.yaml"}), static_cast<int>(ErrorKind::MissingInput));
}

}  // namespace
}  // namespace plimsoll
