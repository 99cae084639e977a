#include "launch/reporter.hpp"
#include "runtime/core/median.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace plimsoll {

Reporter::Reporter(const Config& config, std::int64_t first_step, double flops_per_step, double tokens_per_step,
                   double peak_gflops, std::int64_t budget_bytes, StepTime predicted)
    : config_(config),
      flops_per_step_(flops_per_step),
      tokens_per_step_(tokens_per_step),
      budget_bytes_(budget_bytes),
      metrics_(config.run.dir, first_step),
      board_(config.run.dir),
      progress_(config.train.steps, first_step, config.run.log_every),
      begin_(std::chrono::steady_clock::now()) {
  summary_.peak_gflops = peak_gflops;
  summary_.peak_of_data_sheet = config.device == DeviceKind::Cuda && !config.gpu.measured;
  summary_.predicted = std::move(predicted);
}

void Reporter::step(StepMetrics m, double seconds, std::int64_t memory_bytes) {
  m.step_ms = seconds * 1e3;
  m.tokens_per_s = tokens_per_step_ / seconds;
  m.model_gflops = flops_per_step_ / seconds * 1e-9;
  if (m.model_gflops > summary_.peak_gflops) {
    summary_.peak_gflops = m.model_gflops;
    summary_.peak_step = m.step;
  }
  m.mfu = m.model_gflops / summary_.peak_gflops;
  const std::int64_t period = std::max<std::int64_t>(config_.run.log_every, 1);
  if (m.step % period == 0 || m.step == config_.train.steps) {
    metrics_.append(m);
    board_.scalar("train/loss", m.step, m.loss);
    board_.scalar("train/lr", m.step, m.lr);
    board_.scalar("train/grad_norm", m.step, m.grad_norm);
    board_.scalar("train/tokens_per_s", m.step, m.tokens_per_s);
    board_.scalar("train/mfu", m.step, m.mfu);
    if (m.loss_scale) board_.scalar("train/loss_scale", m.step, *m.loss_scale);
  }
  progress_.update(m, memory_bytes, budget_bytes_);
  summary_.last = m;
  if (++summary_.steps > 1 && times_.size() < kMostTimes) times_.push_back(seconds);
  summary_.step_seconds += seconds;
  summary_.tokens += tokens_per_step_;
  summary_.gflop += flops_per_step_ * 1e-9;
}

void Reporter::skipped_step(std::int64_t step, std::int64_t in_a_row) {
  progress_.warn(fmt::format("step {}: the gradients are not finite; the parameters stay as they are ({} in a row)",
                             step, in_a_row));
}

void Reporter::validation(std::int64_t step, double loss) {
  metrics_.append_validation(step, loss);
  board_.scalar("validation/loss", step, loss);
  progress_.message(fmt::format("step {}: validation loss {:.6f}", step, loss));
  summary_.validation_loss = loss;
}

std::string Reporter::finish(std::vector<RankSummary> ranks) {
  progress_.finish();
  summary_.ranks = std::move(ranks);
  summary_.wall_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  if (!times_.empty()) summary_.measured_step_s = median(times_);
  write_summary(summary_, config_.run.dir);
  return run_report(summary_) + times_report(summary_) + volume_report(summary_) + memory_report(summary_);
}

}  // namespace plimsoll
