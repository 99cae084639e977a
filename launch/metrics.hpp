#pragma once
// metrics.jsonl: a line per logged step and per evaluation, in full precision.

#include <cstdint>
#include <fstream>
#include <optional>
#include <string>

namespace plimsoll {

struct StepMetrics {
  std::int64_t step = 0;    // steps done
  std::int64_t tokens = 0;  // targets seen so far
  double loss = 0, lr = 0, grad_norm = 0, step_ms = 0, tokens_per_s = 0;
  double model_gflops = 0;           // GFLOP/s of the model's own arithmetic, from the op declarations
  double mfu = 0;                    // of the matrix-product rate in the run's precision, measured at start, all ranks
  std::optional<double> loss_scale;  // of the step, in fp16
};

class MetricsFile {
 public:
  // Appends to <run_dir>/metrics.jsonl. Lines of steps after `resumed_step` are dropped first: they will be made again.
  MetricsFile(const std::string& run_dir, std::int64_t resumed_step);
  void append(const StepMetrics& metrics);
  void append_validation(std::int64_t step, double loss);

 private:
  void write(const std::string& line);
  std::string path_;
  std::ofstream file_;
};

}  // namespace plimsoll
