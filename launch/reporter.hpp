#pragma once
// What rank 0 tells about a training run: metrics.jsonl, TensorBoard, the progress that people watch, the summary.

#include "launch/config.hpp"
#include "launch/metrics.hpp"
#include "launch/progress.hpp"
#include "launch/summary.hpp"
#include "launch/tensorboard.hpp"

namespace plimsoll {

class Reporter {
 public:
  // `flops_per_step`: the model's own, of all ranks. `peak_gflops`: matrix-product rate of all ranks, measured before
  // or of the data sheet.
  Reporter(const Config& config, std::int64_t first_step, double flops_per_step, double tokens_per_step,
           double peak_gflops, std::int64_t budget_bytes, StepTime predicted);

  // After a step: `m` has step, tokens, loss, lr and grad_norm; the rates are filled in from `seconds`. A step that is
  // faster than the matrix products that were measured raises the peak rate, so that MFU stays at most 1.
  // `memory_bytes`: held, of what the budget is for.
  void step(StepMetrics m, double seconds, std::int64_t memory_bytes);
  void skipped_step(std::int64_t step, std::int64_t in_a_row);
  void validation(std::int64_t step, double loss);
  void warn(const std::string& text) { progress_.warn(text); }
  void saved(const std::string& folder) { summary_.checkpoint = folder; }
  // Writes summary.json and returns the text that ends the run.
  std::string finish(std::vector<RankSummary> ranks);

 private:
  const Config& config_;
  double flops_per_step_, tokens_per_step_;
  std::int64_t budget_bytes_;
  MetricsFile metrics_;
  TensorBoardWriter board_;
  TrainProgress progress_;
  RunSummary summary_;
  static constexpr std::size_t kMostTimes = 100'000;
  std::vector<double> times_;  // of steps after the first, seconds
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace plimsoll
