// What fits on a line, and where lines go.

#include "launch/progress.hpp"

#include <gtest/gtest.h>

#include "launch/screen.hpp"
#include "runtime/core/error.hpp"
#include "tests/support/environment.hpp"

namespace plimsoll {
namespace {

StepView view() {
  StepView v;
  v.metrics.step = 1200;
  v.metrics.loss = 3.4567;
  v.metrics.lr = 1e-3;
  v.metrics.tokens_per_s = 123456;
  v.metrics.model_gflops = 234.5;
  v.metrics.mfu = 0.51;
  v.steps = 4000;
  v.seconds_left = 754;
  v.memory_bytes = std::int64_t{300} << 20;
  v.budget_bytes = std::int64_t{512} << 20;
  return v;
}

TEST(Progress, ABarLineNeverWraps) {
  for (int columns = 1; columns < 200; ++columns) {
    const std::string line = bar_line(view(), columns);
    EXPECT_LT(static_cast<int>(line.size()), std::max(columns, 2)) << line;
    if (columns > 30) {
      EXPECT_NE(line.find("1200/4000"), std::string::npos) << line;
      EXPECT_NE(line.find("loss 3.4567"), std::string::npos) << line;
    }
  }
  EXPECT_NE(bar_line(view(), 200).find("[######..............] 1200/4000  loss 3.4567  lr 1.00e-03  123456 tok/s"),
            std::string::npos);
}

TEST(Progress, EightyColumnsHoldTheRatesTheTimeAndTheMemory) {
  const std::string line = bar_line(view(), 80);
  for (const char* part : {"loss 3.4567", "123456 tok/s", "12:34 left", "MFU 51%", "mem 59%", "lr 1e-03"})
    EXPECT_NE(line.find(part), std::string::npos) << part << " in " << line;
}

TEST(Progress, ABarGoesBeforeTheLeastOfTheValues) {
  StepView v = view();
  v.metrics.step = 37;
  v.metrics.tokens_per_s = 1234;
  v.steps = 100;  // all values would fill the line
  EXPECT_EQ(bar_line(v, 80), "[####.......] 37/100 loss 3.4567 1234 tok/s 12:34 left MFU 51% mem 59% lr 1e-03");
}

TEST(Progress, DurationsAreReadable) {
  EXPECT_EQ(duration_text(65), "1:05");
  EXPECT_EQ(duration_text(7207), "2:00:07");
}

TEST(Progress, TheEnvironmentDecidesWhereProgressGoes) {
  const auto screen_of = [](const char* wanted) {
    const test::EnvironmentVariable progress("PLIMSOLL_PROGRESS", wanted);
    return find_screen();
  };
  EXPECT_TRUE(screen_of("bar").terminal);
  EXPECT_FALSE(screen_of("plain").terminal);
  EXPECT_THROW(screen_of("fancy"), Error);
  EXPECT_GT(find_screen().columns, 0);
}

}  // namespace
}  // namespace plimsoll
