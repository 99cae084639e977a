#include "launch/progress.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "launch/screen.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/text.hpp"

namespace plimsoll {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kWidestBar = 20, kNarrowestBar = 5;
constexpr auto kRedraw = std::chrono::milliseconds(100);
constexpr auto kPlainPeriod = std::chrono::seconds(10);

std::string bar(double fraction, int width) {
  const int filled = std::clamp(static_cast<int>(fraction * width), 0, width);
  return "[" + std::string(static_cast<std::size_t>(filled), '#') +
         std::string(static_cast<std::size_t>(width - filled), '.') + "]";
}

double fraction_of(std::int64_t done, std::int64_t total) {
  return total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1.0;
}

void draw(const std::string& text) {
  fmt::print("\r\033[K{}", text);
  std::fflush(stdout);
}

// The values of a step, the ones that go first when space is short last.
std::vector<std::string> short_values(const StepView& v) {
  const StepMetrics& m = v.metrics;
  return {fmt::format("loss {:.4f}", m.loss),
          fmt::format("{:.0f} tok/s", m.tokens_per_s),
          duration_text(v.seconds_left) + " left",
          fmt::format("MFU {:.0f}%", 100 * m.mfu),
          fmt::format("mem {:.0f}%", 100 * fraction_of(v.memory_bytes, v.budget_bytes)),
          fmt::format("lr {:.0e}", m.lr),
          fmt::format("{:.0f} GFLOP/s", m.model_gflops)};
}

}  // namespace

std::string duration_text(double seconds) {
  const auto s = std::isfinite(seconds) ? static_cast<std::int64_t>(seconds) : 0;
  return s >= 3600 ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
                   : fmt::format("{}:{:02}", s / 60, s % 60);
}

std::string step_line(const StepView& v) {
  const StepMetrics& m = v.metrics;
  return fmt::format("loss {:.4f}  lr {:.2e}  {:.0f} tok/s  {:.1f} GFLOP/s  MFU {:.1f}%  {} left  mem {} of {}", m.loss,
                     m.lr, m.tokens_per_s, m.model_gflops, 100 * m.mfu, duration_text(v.seconds_left),
                     format_bytes(v.memory_bytes), format_bytes(v.budget_bytes));
}

std::string bar_line(const StepView& v, int columns) {
  const auto space =
      static_cast<std::size_t>(std::max(columns - 1, 1));  // the last column would wrap on some terminals
  const double fraction = fraction_of(v.metrics.step, v.steps);
  const std::string count = fmt::format("{}/{}", v.metrics.step, v.steps);
  std::string full = fmt::format("{} {}  {}", bar(fraction, kWidestBar), count, step_line(v));
  if (full.size() <= space) return full;
  std::vector<std::string> values = short_values(v);
  std::string text;
  do {
    text = count;
    for (const std::string& value : values) text += " " + value;
    values.pop_back();
  } while (text.size() + kNarrowestBar + 3 > space && !values.empty());  // a bar says more than the last values
  const auto left = static_cast<int>(space) - static_cast<int>(text.size()) - 3;
  if (left >= kNarrowestBar) text = bar(fraction, std::min(left, kWidestBar)) + " " + text;
  return text.substr(0, space);
}

TrainProgress::TrainProgress(std::int64_t steps, std::int64_t first_step, std::int64_t log_every)
    : steps_(steps),
      first_step_(first_step),
      log_every_(log_every),
      terminal_(find_screen().terminal),
      begin_(Clock::now()) {}

void TrainProgress::update(const StepMetrics& m, std::int64_t memory_bytes, std::int64_t budget_bytes) {
  const auto now = Clock::now();
  const bool line = !terminal_ && log_every_ > 0 && (m.step % log_every_ == 0 || m.step == steps_);
  const bool redraw = terminal_ && (now - drawn_ >= kRedraw || m.step == steps_);
  if (!line && !redraw) return;
  const double spent = std::chrono::duration<double>(now - begin_).count();
  const StepView view{m, steps_,
                      spent / static_cast<double>(m.step - first_step_) * static_cast<double>(steps_ - m.step),
                      memory_bytes, budget_bytes};
  if (redraw) {
    drawn_ = now;
    bar_ = bar_line(view, find_screen().columns);
    draw(bar_);
  } else {
    fmt::print("step {}/{}  {}\n", m.step, steps_, step_line(view));
    std::fflush(stdout);
  }
}

void TrainProgress::message(const std::string& text) {
  if (terminal_) draw("");
  fmt::print("{}\n", text);
  if (terminal_) draw(bar_);
  std::fflush(stdout);
}

void TrainProgress::warn(const std::string& text) {
  if (terminal_) draw("");
  log_warn("{}", text);
  if (terminal_) draw(bar_);
}

void TrainProgress::finish() {
  if (terminal_) fmt::print("\n");
}

PartProgress::PartProgress(std::string what, std::string unit, bool shown)
    : what_(std::move(what)),
      unit_(std::move(unit)),
      shown_(shown),
      terminal_(shown && find_screen().terminal),
      drawn_(terminal_ ? Clock::time_point{} : Clock::now()) {}

void PartProgress::update(std::int64_t done, std::int64_t total) {
  const auto now = Clock::now();
  if (!shown_ || now - drawn_ < (terminal_ ? Clock::duration(kRedraw) : Clock::duration(kPlainPeriod))) return;
  drawn_ = now;
  const double fraction = fraction_of(done, total);
  const std::string of = unit_.empty() ? fmt::format("{} of {}", format_bytes(done), format_bytes(total))
                                       : fmt::format("{} of {} {}", done, total, unit_);
  const auto percent = static_cast<int>(fraction * 100);
  if (terminal_) {
    draw(fmt::format("{} {} {}%  {}", what_, bar(fraction, kWidestBar), percent, of));
  } else {
    fmt::print("{} {}%  {}\n", what_, percent, of);
    std::fflush(stdout);
  }
}

void PartProgress::finish() {
  if (terminal_) draw("");
}

}  // namespace plimsoll
