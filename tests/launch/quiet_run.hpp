#pragma once
// Training runs of a test, and what they write into metrics.jsonl.

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "launch/trainer.hpp"
#include "tests/launch/tiny_run.hpp"

namespace plimsoll::test {

inline std::string train_quietly(const Config& config) {
  const MpiSession mpi;
  testing::internal::CaptureStdout();
  try {
    train(config, mpi);
  } catch (...) {
    testing::internal::GetCapturedStdout();
    throw;
  }
  return testing::internal::GetCapturedStdout();
}

inline std::vector<nlohmann::ordered_json> metric_lines(const std::filesystem::path& run) {
  std::istringstream in(read_text(run / "metrics.jsonl"));
  std::vector<nlohmann::ordered_json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::ordered_json::parse(line));
  return lines;
}

// What a resumed run must repeat: everything but times.
inline std::vector<std::string> lasting_metrics(const std::filesystem::path& run) {
  std::vector<std::string> all;
  for (nlohmann::ordered_json line : metric_lines(run)) {
    for (const char* key : {"step_ms", "tokens_per_s", "model_gflops", "mfu"}) line.erase(key);
    all.push_back(line.dump());
  }
  return all;
}

}  // namespace plimsoll::test
