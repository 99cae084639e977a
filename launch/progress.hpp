#pragma once
// What a person watches: a bar that redraws itself on a terminal, plain lines elsewhere.

#include <chrono>
#include <string>

#include "launch/metrics.hpp"

namespace plimsoll {

// "1:05", "2:00:07".
std::string duration_text(double seconds);

// A step for people. Memory is what this rank holds, of the budget.
struct StepView {
  StepMetrics metrics;
  std::int64_t steps = 0;
  double seconds_left = 0;
  std::int64_t memory_bytes = 0, budget_bytes = 0;
};
std::string step_line(const StepView& view);
// The same with a bar, in fewer than `columns` columns: shorter words first, then a shorter bar, then fewer values.
std::string bar_line(const StepView& view, int columns);

class TrainProgress {
 public:
  TrainProgress(std::int64_t steps, std::int64_t first_step, std::int64_t log_every);
  // After every step.
  void update(const StepMetrics& metrics, std::int64_t memory_bytes, std::int64_t budget_bytes);
  void message(const std::string& text);  // a line of its own
  void warn(const std::string& text);     // a log line of its own
  void finish();                          // leaves the last state on the screen

 private:
  std::int64_t steps_, first_step_, log_every_;
  bool terminal_;
  std::string bar_;
  std::chrono::steady_clock::time_point begin_, drawn_{};
};

// Progress of a part of the work: on a terminal a line that goes away again, elsewhere a line every 10 s, if at all.
class PartProgress {
 public:
  // `unit` empty: bytes. Shows nothing with `shown` false.
  PartProgress(std::string what, std::string unit, bool shown = true);
  void update(std::int64_t done, std::int64_t total);
  void finish();

 private:
  std::string what_, unit_;
  bool shown_, terminal_;
  std::chrono::steady_clock::time_point drawn_;
};

}  // namespace plimsoll
