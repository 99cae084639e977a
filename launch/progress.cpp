#include "launch/progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "runtime/core/text.hpp"

namespace plimsoll {
namespace {

constexpr int kBarWidth = 20;
constexpr auto kRedraw = std::chrono::milliseconds(100);

std::string bar(double fraction) {
  const int filled = std::clamp(static_cast<int>(fraction * kBarWidth), 0, kBarWidth);
  return "[" + std::string(static_cast<std::size_t>(filled), '#') +
         std::string(static_cast<std::size_t>(kBarWidth - filled), '.') + "]";
}

std::string duration(double seconds) {
  const auto s = static_cast<std::int64_t>(seconds);
  return s >= 3600 ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
                   : fmt::format("{}:{:02}", s / 60, s % 60);
}

void draw(const std::string& text) {
  fmt::print("\r\033[K{}", text);
  std::fflush(stdout);
}

}  // namespace

TrainProgress::TrainProgress(std::int64_t steps, std::int64_t first_step, std::int64_t log_every)
    : steps_(steps),
      first_step_(first_step),
      log_every_(log_every),
      terminal_(isatty(STDOUT_FILENO) != 0),
      begin_(std::chrono::steady_clock::now()) {}

void TrainProgress::update(const StepMetrics& m, std::int64_t memory_bytes, std::int64_t budget_bytes) {
  const auto now = std::chrono::steady_clock::now();
  const double spent = std::chrono::duration<double>(now - begin_).count();
  const double left = spent / static_cast<double>(m.step - first_step_) * static_cast<double>(steps_ - m.step);
  const std::string text =
      fmt::format("loss {:.4f}  lr {:.2e}  {:.0f} tok/s  {:.1f} GFLOP/s  MFU {:.1f}%  {} left  mem {} of {}", m.loss,
                  m.lr, m.tokens_per_s, m.model_gflops, 100 * m.mfu, duration(left), format_bytes(memory_bytes),
                  format_bytes(budget_bytes));
  if (terminal_) {
    bar_ = fmt::format("{} {}/{}  {}", bar(static_cast<double>(m.step) / static_cast<double>(steps_)), m.step, steps_,
                       text);
    if (now - drawn_ < kRedraw && m.step != steps_) return;
    drawn_ = now;
    draw(bar_);
  } else if (log_every_ > 0 && (m.step % log_every_ == 0 || m.step == steps_)) {
    fmt::print("step {}/{}  {}\n", m.step, steps_, text);
    std::fflush(stdout);
  }
}

void TrainProgress::message(const std::string& text) {
  if (terminal_) draw("");
  fmt::print("{}\n", text);
  if (terminal_) draw(bar_);
  std::fflush(stdout);
}

void TrainProgress::finish() {
  if (terminal_) fmt::print("\n");
}

ByteProgress::ByteProgress(std::string what) : what_(std::move(what)), terminal_(isatty(STDOUT_FILENO) != 0) {}

void ByteProgress::update(std::int64_t done, std::int64_t total) {
  const double fraction = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1.0;
  const int percent = static_cast<int>(fraction * 100);
  if (!terminal_ || percent == percent_) return;
  percent_ = percent;
  draw(fmt::format("{} {} {}%  {} of {}", what_, bar(fraction), percent, format_bytes(done), format_bytes(total)));
}

void ByteProgress::finish() {
  if (terminal_) draw("");
}

}  // namespace plimsoll
