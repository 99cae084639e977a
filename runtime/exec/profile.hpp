#pragma once
// Time per node, and a trace file that chrome://tracing and Perfetto open.

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace plimsoll {

class Profile {
 public:
  // `max_events` spans are kept for the trace (later ones only count in the sums): memory is bounded and allocated
  // here.
  explicit Profile(std::size_t max_events = 200'000);

  // A row of the table: one node of one program. Called before the run.
  int add_row(std::string program, std::string op, std::string phase, std::string label, int layer, std::int64_t flops);
  void record(int row, std::int64_t begin_ns, std::int64_t end_ns, bool communication);
  static std::int64_t now_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }

  // Rows by op and phase, the most expensive first: calls, total ms, share, GFLOP/s.
  std::string table() const;
  // Chrome trace event format; throws Error(CheckpointIo) when the file cannot be written.
  void write_trace(const std::string& path, int rank) const;

 private:
  struct Row {
    std::string program, op, phase, label;
    int layer;
    std::int64_t flops, calls, total_ns;
  };
  struct Span {
    int row;
    std::int64_t begin_ns, end_ns;
    bool communication;
  };
  mutable std::mutex mutex_;
  std::vector<Row> rows_;
  std::vector<Span> spans_;
};

}  // namespace plimsoll
