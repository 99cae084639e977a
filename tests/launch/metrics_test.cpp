#include "launch/metrics.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "runtime/core/error.hpp"
#include "tests/support/temp_folder.hpp"

namespace plimsoll {
namespace {

using test::TempFolder;

std::vector<nlohmann::json> lines(const TempFolder& folder) {
  std::istringstream in(test::read_text(folder / "metrics.jsonl"));
  std::vector<nlohmann::json> all;
  for (std::string line; std::getline(in, line);) all.push_back(nlohmann::json::parse(line));
  return all;
}

void write_steps(const TempFolder& folder, std::int64_t resumed, std::int64_t last) {
  MetricsFile file(folder.path().string(), resumed);
  for (std::int64_t s = resumed + 1; s <= last; ++s) {
    StepMetrics m;
    m.step = s;
    m.loss = static_cast<double>(last) + 1.0 / 3.0;
    file.append(m);
    if (s % 2 == 0) file.append_validation(s, 0.1);
  }
}

TEST(MetricsFile, LaterLinesAreDroppedOnResume) {
  const TempFolder folder;
  write_steps(folder, 0, 5);
  EXPECT_EQ(lines(folder).size(), 7U);
  write_steps(folder, 2, 4);
  std::vector<std::int64_t> steps;
  for (const auto& line : lines(folder)) steps.push_back(line["step"]);
  EXPECT_EQ(steps, (std::vector<std::int64_t>{1, 2, 2, 3, 4, 4}));
}

TEST(MetricsFile, NumbersKeepTheirFullPrecision) {
  const TempFolder folder;
  write_steps(folder, 0, 1);
  EXPECT_EQ(lines(folder).at(0)["loss"].get<double>(), 1.0 + 1.0 / 3.0);
}

TEST(MetricsFile, AHalfWrittenLastLineIsDropped) {
  const TempFolder folder;
  write_steps(folder, 0, 1);
  test::write_text(folder / "metrics.jsonl", test::read_text(folder / "metrics.jsonl") + R"({"step":2,"lo)");
  write_steps(folder, 1, 2);
  EXPECT_EQ(lines(folder).size(), 3U);
}

TEST(MetricsFile, AFolderThatIsNotThereIsAnError) {
  const TempFolder folder;
  EXPECT_THROW(MetricsFile((folder / "missing").string(), 0), Error);
}

}  // namespace
}  // namespace plimsoll
