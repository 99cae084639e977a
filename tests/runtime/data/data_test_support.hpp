#pragma once
// A folder of its own for each test, and small files to put there.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "runtime/core/error.hpp"
#include "runtime/data/token_writer.hpp"

namespace plimsoll {

class DataTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::temp_directory_path() /
              fmt::format("plimsoll_{}_{}_{}", info->test_suite_name(), info->name(), ::getpid());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  std::string write(const std::string& name, const std::string& content) const {
    std::ofstream(path(name), std::ios::binary) << content;
    return path(name);
  }
  std::string content(const std::string& name) const {
    std::ostringstream text;
    text << std::ifstream(path(name), std::ios::binary).rdbuf();
    return text.str();
  }
  // A Megatron pair with one document: ids 0, 1, … modulo `vocabulary`, so that a token tells its position.
  std::string write_tokens(const std::string& name, std::int64_t tokens, std::int64_t vocabulary = 1 << 20) const {
    TokenWriter writer(path(name), vocabulary);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens));
    for (std::int64_t i = 0; i < tokens; ++i)
      ids[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i % vocabulary);
    writer.append(ids);
    writer.finish();
    return path(name);
  }
  // Overwrites bytes of a file.
  template <class T>
  void patch(const std::string& name, std::int64_t offset, T value) const {
    std::fstream file(path(name), std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(offset);
    file.write(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  void resize(const std::string& name, std::uint64_t bytes) const { std::filesystem::resize_file(path(name), bytes); }

  std::filesystem::path folder_;
};

// Runs `work`, which must throw an Error of this kind whose text has all of `parts`.
template <class Work>
void expect_error(ErrorKind kind, const std::vector<std::string>& parts, Work work) {
  try {
    work();
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.kind()), static_cast<int>(kind)) << error.what();
    for (const std::string& part : parts) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << "no '" << part << "' in: " << error.what();
    }
  }
}

}  // namespace plimsoll
