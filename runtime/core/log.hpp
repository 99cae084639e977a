#pragma once
// Log lines go to stderr as `[level] text`; stdout is for what a command reports. Rank 0 logs information, every rank
// logs warnings. A thin face over spdlog, so that its headers stay out of ours.

#include <fmt/format.h>

#include <string_view>

namespace plimsoll {

enum class LogLevel { Debug, Info, Warn, Error, Off };

// `rank` prefixes the lines when there is more than one rank; ranks other than 0 start at Warn.
void log_configure(LogLevel level, int rank, int ranks);
void log_line(LogLevel level, std::string_view text);

template <class... Args>
void log_info(fmt::format_string<Args...> text, Args&&... args) {
  log_line(LogLevel::Info, fmt::format(text, std::forward<Args>(args)...));
}
template <class... Args>
void log_warn(fmt::format_string<Args...> text, Args&&... args) {
  log_line(LogLevel::Warn, fmt::format(text, std::forward<Args>(args)...));
}
template <class... Args>
void log_debug(fmt::format_string<Args...> text, Args&&... args) {
  log_line(LogLevel::Debug, fmt::format(text, std::forward<Args>(args)...));
}

}  // namespace plimsoll
