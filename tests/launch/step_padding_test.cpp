// The step regions of real programs have no padding: what they take is what is live at their peak.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "launch/commands.hpp"

namespace plimsoll {
namespace {

const std::filesystem::path kConfigs = std::filesystem::path(PLIMSOLL_SOURCE_DIR) / "configs";

std::vector<std::filesystem::path> configs() {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(kConfigs)) {
    if (entry.path().extension() == ".yaml") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

// Of all programs of all roles. Returns how many. What other tests have measured, of kernels and of what lies outside
// of an arena, would choose otherwise.
int expect_no_padding(const std::filesystem::path& file, int ranks, std::vector<std::string> overrides,
                      const std::string& cluster = "") {
  overrides.insert(overrides.end(), {"plan.profile=off", "memory.reserve=128MiB"});
  PlanArguments arguments;
  arguments.ranks = ranks;
  if (!cluster.empty()) arguments.cluster = kConfigs / "clusters" / (cluster + ".yaml");
  testing::internal::CaptureStdout();
  const int code = command_plan({file.string(), overrides}, arguments, true);
  const nlohmann::json plan = nlohmann::json::parse(testing::internal::GetCapturedStdout());
  EXPECT_EQ(code, 0) << file;
  int programs = 0;
  for (const nlohmann::json& role : plan.at("roles")) {
    for (const auto& [name, program] : role.at("programs").items()) {
      EXPECT_LE(program.at("step_bytes").get<std::int64_t>(), program.at("max_live_bytes").get<std::int64_t>())
          << file << " on " << ranks << " ranks, " << role.at("role") << ", " << name << ", "
          << program.at("offsets_by");
      ++programs;
    }
  }
  return programs;
}

class StepPadding : public testing::TestWithParam<std::filesystem::path> {};

TEST_P(StepPadding, IsNone) {
  for (const int ranks : {1, 4}) EXPECT_GT(expect_no_padding(GetParam(), ranks, {}), 0);
  for (const char* parallel : {"{tensor: 2, zero: 1}", "{pipeline: 2, zero: 3}"})
    EXPECT_GT(expect_no_padding(GetParam(), 4, {std::string("parallel=") + parallel}), 0) << parallel;
}

INSTANTIATE_TEST_SUITE_P(Configs, StepPadding, testing::ValuesIn(configs()),
                         [](const auto& c) { return c.param.stem().string(); });

// No order of all their buffers gets there.
TEST(StepPaddingOf, LayersThatAreSplitEightWays) {
  const std::filesystem::path large = kConfigs / "large";
  EXPECT_GT(expect_no_padding(large / "megatron_70b.yaml", 768, {}, "h100"), 1);
  EXPECT_GT(expect_no_padding(large / "llama3_8b.yaml", 64, {"parallel={tensor: 8, zero: 1, sequence: true}"}, "h100"),
            0);
}

}  // namespace
}  // namespace plimsoll
