#pragma once
// What a person watches: a bar that redraws itself on a terminal, plain lines elsewhere.

#include <chrono>
#include <string>

#include "launch/metrics.hpp"

namespace plimsoll {

class TrainProgress {
 public:
  TrainProgress(std::int64_t steps, std::int64_t first_step, std::int64_t log_every);
  // After every step. Memory is what the plan needs, of the budget, in bytes.
  void update(const StepMetrics& metrics, std::int64_t memory_bytes, std::int64_t budget_bytes);
  void message(const std::string& text);  // a line of its own
  void finish();                          // leaves the last state on the screen

 private:
  std::int64_t steps_, first_step_, log_every_;
  bool terminal_;
  std::string bar_;
  std::chrono::steady_clock::time_point begin_, drawn_{};
};

// Progress of reading `total` bytes.
class ByteProgress {
 public:
  explicit ByteProgress(std::string what);
  void update(std::int64_t done, std::int64_t total);
  void finish();

 private:
  std::string what_;
  bool terminal_;
  int percent_ = -1;
};

}  // namespace plimsoll
