#include "runtime/exec/profile.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "runtime/core/error.hpp"
#include "tests/support/temp_folder.hpp"

namespace plimsoll {
namespace {

ProfileRow train_row(const std::string& op, const std::string& phase, const std::string& label) {
  ProfileRow row;
  row.program = "train";
  row.op = op;
  row.phase = phase;
  row.label = label;
  return row;
}

ProfileRow product() {
  ProfileRow row = train_row("linear", "forward", "mlp.up");
  row.layer = 3;
  row.flops = 2'000'000;
  return row;
}

ProfileRow sum_of_gradients() {
  ProfileRow row = train_row("all_reduce", "reduce", "bucket.0");
  row.track = "comm";
  row.axis = "data";
  row.bytes = 4096;
  row.micro_batch = 1;
  return row;
}

// As chrome://tracing and Perfetto read it: complete events with microseconds from the first on, a process per rank and
// a track per stream.
TEST(Profile, ATraceReadsBack) {
  const test::TempFolder folder;
  Profile profile;
  const int linear = profile.add_row(product()), reduce = profile.add_row(sum_of_gradients());
  profile.record(linear, 1'000'000, 1'002'500);
  profile.record(reduce, 1'001'000, 1'009'000);
  const std::string path = (folder / "trace.json").string();
  profile.write_trace(path, 2);
  const auto trace = nlohmann::json::parse(test::read_text(path));
  const auto& events = trace.at("traceEvents");
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(events[0], nlohmann::json::parse(R"({"name": "3.mlp.up", "cat": "forward", "ph": "X", "ts": 0.0, "dur": 2.5,
      "pid": 2, "tid": "compute", "args": {"op": "linear", "program": "train", "layer": 3}})"));
  EXPECT_EQ(events[1], nlohmann::json::parse(R"({"name": "bucket.0", "cat": "reduce", "ph": "X", "ts": 1.0, "dur": 8.0,
      "pid": 2, "tid": "comm", "args": {"op": "all_reduce", "program": "train", "layer": -1, "axis": "data",
      "bytes": 4096, "micro_batch": 1}})"));
}

TEST(Profile, WhatIsBeyondTheTraceIsInTheSums) {
  const test::TempFolder folder;
  Profile profile(1);
  const int linear = profile.add_row(product());
  for (int i = 0; i < 3; ++i) profile.record(linear, 10'000 * i, 10'000 * i + 4'000);
  EXPECT_EQ(profile.spans().size(), 1U);
  EXPECT_EQ(profile.sums()[0].calls, 3);
  EXPECT_EQ(profile.sums()[0].total_ns, 12'000);
  const std::string table = profile.table();  // 2 MFLOP in 4 µs
  EXPECT_NE(table.find("linear forward"), std::string::npos) << table;
  EXPECT_NE(table.find("500.0"), std::string::npos) << table;
}

TEST(Profile, ATraceThatCannotBeWrittenIsAnError) {
  const test::TempFolder folder;
  try {
    Profile().write_trace((folder / "missing/trace.json").string(), 0);
    FAIL() << "there is no such folder";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::CheckpointIo);
    EXPECT_NE(std::string(error.what()).find("missing/trace.json"), std::string::npos);
  }
}

}  // namespace
}  // namespace plimsoll
