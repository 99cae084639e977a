#include "runtime/exec/profile.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "runtime/core/error.hpp"
#include "runtime/device/device.hpp"

namespace plimsoll {

Profile::Profile(std::size_t max_events) { spans_.reserve(max_events); }

int Profile::add_row(ProfileRow row) {
  rows_.push_back({std::move(row), {}});
  return static_cast<int>(rows_.size() - 1);
}

void Profile::record(int row, std::int64_t begin_ns, std::int64_t end_ns) {
  const std::lock_guard lock(mutex_);
  Row& r = rows_[static_cast<std::size_t>(row)];
  ++r.calls;
  r.total_ns += end_ns - begin_ns;
  if (spans_.size() < spans_.capacity()) spans_.push_back({row, begin_ns, end_ns});
}

std::vector<Profile::Span> Profile::spans() const {
  const std::lock_guard lock(mutex_);
  return spans_;
}

std::vector<Profile::Sum> Profile::sums() const {
  const std::lock_guard lock(mutex_);
  return {rows_.begin(), rows_.end()};
}

std::string Profile::table() const {
  struct Total {
    std::int64_t calls = 0, ns = 0, flops = 0;
  };
  std::map<std::string, Total> sums;
  std::int64_t total = 0;
  const std::lock_guard lock(mutex_);
  for (const Row& r : rows_) {
    const bool of_stream = std::find(kStreamNames.begin(), kStreamNames.end(), r.track) != kStreamNames.end();
    if (!of_stream) continue;  // what contains nodes, and waits for others
    Total& s = sums[fmt::format("{} {}", r.op, r.phase)];
    s.calls += r.calls;
    s.ns += r.total_ns;
    s.flops += r.calls * r.flops;
    total += r.total_ns;
  }
  std::vector<std::pair<std::string, Total>> sorted(sums.begin(), sums.end());
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.second.ns > b.second.ns; });
  std::string out = fmt::format("{:<32}{:>8}{:>12}{:>8}{:>10}\n", "op", "calls", "ms", "%", "GFLOP/s");
  for (const auto& [name, s] : sorted) {
    if (s.calls == 0) continue;
    const auto ns = static_cast<double>(std::max<std::int64_t>(s.ns, 1));
    out += fmt::format("{:<32}{:>8}{:>12.2f}{:>8.2f}{:>10.1f}\n", name, s.calls, ns * 1e-6,
                       100.0 * ns / static_cast<double>(std::max<std::int64_t>(total, 1)),
                       static_cast<double>(s.flops) / ns);
  }
  return out;
}

void Profile::write_trace(const std::string& path, int rank) const {
  std::ofstream file(path);
  const std::lock_guard lock(mutex_);
  std::int64_t start = spans_.empty() ? 0 : spans_.front().begin_ns;
  for (const Span& s : spans_) start = std::min(start, s.begin_ns);
  file << "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
  for (std::size_t i = 0; i < spans_.size(); ++i) {
    const Span& s = spans_[i];
    const Row& r = rows_[static_cast<std::size_t>(s.row)];
    nlohmann::json event{{"name", r.layer >= 0 ? fmt::format("{}.{}", r.layer, r.label) : r.label},
                         {"cat", r.phase},
                         {"ph", "X"},
                         {"ts", static_cast<double>(s.begin_ns - start) * 1e-3},
                         {"dur", static_cast<double>(s.end_ns - s.begin_ns) * 1e-3},
                         {"pid", rank},
                         {"tid", r.track},
                         {"args", {{"op", r.op}, {"program", r.program}, {"layer", r.layer}}}};
    if (!r.axis.empty()) event["args"]["axis"] = r.axis;
    if (!r.axis.empty() || r.bytes > 0) event["args"]["bytes"] = r.bytes;
    if (r.micro_batch >= 0) event["args"]["micro_batch"] = r.micro_batch;
    file << event.dump() << (i + 1 < spans_.size() ? ",\n" : "\n");
  }
  file << "]}\n";
  file.close();
  require(file.good(), ErrorKind::CheckpointIo, "{}: the trace could not be written", path);
}

}  // namespace plimsoll
