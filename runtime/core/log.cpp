#include "runtime/core/log.hpp"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <cstdio>

namespace plimsoll {
namespace {

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::Debug: return spdlog::level::debug;
    case LogLevel::Info: return spdlog::level::info;
    case LogLevel::Warn: return spdlog::level::warn;
    case LogLevel::Error: return spdlog::level::err;
    case LogLevel::Off: return spdlog::level::off;
  }
  return spdlog::level::info;
}

spdlog::logger& logger() {
  static spdlog::logger instance = [] {
    spdlog::logger made("plimsoll", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made.set_pattern("[%l] %v");
    return made;
  }();
  return instance;
}

}  // namespace

void log_configure(LogLevel level, int rank, int ranks) {
  logger().set_level(to_spdlog(rank == 0 || level > LogLevel::Warn ? level : LogLevel::Warn));
  logger().set_pattern(ranks > 1 ? fmt::format("[%l] rank {}: %v", rank) : "[%l] %v");
}

void log_line(LogLevel level, std::string_view text) {
  std::fflush(stdout);  // what was reported before stands before
  logger().log(to_spdlog(level), text);
}

}  // namespace plimsoll
