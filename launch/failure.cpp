#include "launch/failure.hpp"

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <new>
#include <nlohmann/json.hpp>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

std::string file_name(const char* path) { return std::filesystem::path(path).filename().string(); }

void write_reason(const FailureContext& context, const ExitCode& code, const std::string& where,
                  const std::string& text) {
  if (context.run_dir.empty() || !std::filesystem::is_directory(context.run_dir)) return;
  const std::string path = fmt::format("{}/exit_reason.{}.json", context.run_dir, context.rank);
  const std::string temporary = path + ".tmp";
  const nlohmann::json reason{{"code", static_cast<int>(code.kind)},
                              {"kind", code.name},
                              {"rank", context.rank},
                              {"host", context.host},
                              {"step", context.step},
                              {"where", where},
                              {"text", text}};
  std::ofstream(temporary) << reason.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
  std::error_code ignored;
  std::filesystem::rename(temporary, path, ignored);
}

}  // namespace

void fail_run(const FailureContext& context, const std::exception& error, const std::function<void(int)>& abort_peers) {
  ErrorKind kind = ErrorKind::Internal;
  std::string where = "unknown";
  if (const auto* known = dynamic_cast<const Error*>(&error)) {
    kind = known->kind();
    where = fmt::format("{}:{}", file_name(known->where().file_name()), known->where().line());
  } else if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    kind = ErrorKind::OutOfMemory;
  }
  const ExitCode& code = exit_code(kind);
  const int number = static_cast<int>(kind);
  std::fflush(stdout);
  const std::string line =
      fmt::format("FATAL code={} kind={} rank={} host={} step={} file={}: {}\n", number, code.name, context.rank,
                  context.host, context.step >= 0 ? std::to_string(context.step) : "-", where, error.what());
  std::fputs(line.c_str(), stderr);
  std::fflush(stderr);
  write_reason(context, code, where, error.what());
  alarm(2);
  abort_peers(number);
  _exit(number);
}

}  // namespace plimsoll
