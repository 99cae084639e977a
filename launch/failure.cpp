#include "launch/failure.hpp"

#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <new>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "runtime/core/error.hpp"

namespace plimsoll {
namespace {

std::string file_name(const char* path) { return std::filesystem::path(path).filename().string(); }

void write_reason(const FailureContext& context, const ExitCode& code, const std::string& where,
                  const std::string& text) {
  if (context.run_dir.empty()) return;
  std::error_code ignored;
  // A supervisor reads here that starting the run again does not help; nothing else of it is there before it fits.
  if (code.kind == ErrorKind::OutOfMemory) std::filesystem::create_directories(context.run_dir, ignored);
  if (!std::filesystem::is_directory(context.run_dir)) return;
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
  std::filesystem::rename(temporary, path, ignored);
}

ErrorKind kind_of(const std::exception& error) {
  if (const auto* known = dynamic_cast<const Error*>(&error)) return known->kind();
  return dynamic_cast<const std::bad_alloc*>(&error) != nullptr ? ErrorKind::OutOfMemory : ErrorKind::Internal;
}

}  // namespace

std::uint64_t failure_hash(const std::exception& error) {
  const std::string text = fmt::format("{} {}", static_cast<int>(kind_of(error)), error.what());
  return XXH64(text.data(), text.size(), 0);
}

bool is_printed_by_another(std::span<const std::uint64_t> all, int rank) {
  const auto mine = static_cast<std::size_t>(rank);
  if (mine >= all.size()) return false;
  return std::find(all.begin(), all.begin() + rank, all[mine]) != all.begin() + rank;
}

void clear_exit_reasons(const std::string& run_dir, int rank, int ranks) {
  std::error_code ignored;
  std::filesystem::remove(fmt::format("{}/exit_reason.{}.json", run_dir, rank), ignored);
  if (rank != 0) return;
  std::vector<std::filesystem::path> others;
  for (const auto& entry : std::filesystem::directory_iterator(run_dir, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("exit_reason.") && std::atoi(name.c_str() + std::strlen("exit_reason.")) >= ranks)
      others.push_back(entry.path());
  }
  for (const std::filesystem::path& path : others) std::filesystem::remove(path, ignored);
}

void fail_run(const FailureContext& context, const std::exception& error, const std::function<void(int)>& abort_peers) {
  const ErrorKind kind = kind_of(error);
  std::string where = "unknown";
  if (const auto* known = dynamic_cast<const Error*>(&error)) {
    where = fmt::format("{}:{}", file_name(known->where().file_name()), known->where().line());
  }
  const ExitCode& code = exit_code(kind);
  const int number = static_cast<int>(kind);
  std::fflush(stdout);
  const std::string line =
      fmt::format("FATAL code={} kind={} rank={} host={} step={} file={}: {}\n", number, code.name, context.rank,
                  context.host, context.step >= 0 ? std::to_string(context.step) : "-", where, error.what());
  if (!context.silent) std::fputs(line.c_str(), stderr);
  std::fflush(stderr);
  write_reason(context, code, where, error.what());
  alarm(2);
  if (context.silent) std::this_thread::sleep_for(std::chrono::seconds(1));
  abort_peers(number);
  _exit(number);
}

}  // namespace plimsoll
