#pragma once
// Time per node, and a trace file that chrome://tracing and Perfetto open.

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace plimsoll {

// What a span of time was spent on.
struct ProfileRow {
  std::string program, op, phase, label;
  std::string section;  // of the program: "forward", "backward", "update"; empty: no node
  bool whole = false;   // all of the section on its stream, with what it waits for: its nodes are not timed
  int layer = -1;
  bool again = false;  // recomputation
  std::int64_t flops = 0;
  std::string track = "compute";  // of the trace: spans of one track do not overlap
  // Of what communicates (bytes also of what is copied to or from the host); and of a pipeline. Empty, 0, -1: not.
  std::string axis;
  std::int64_t bytes = 0;
  int micro_batch = -1;
};

class Profile {
 public:
  // `max_events` spans are kept for the trace (later ones, or with 0 all, only count in the sums): memory is bounded
  // and allocated here.
  explicit Profile(std::size_t max_events = 200'000);

  // One node of one program, one message or one action of a pipeline. Called before the run.
  int add_row(ProfileRow row);
  void record(int row, std::int64_t begin_ns, std::int64_t end_ns);
  bool traces() const { return spans_.capacity() > 0; }  // keeps spans
  static std::int64_t now_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }

  // Nodes by op and phase, the most expensive first: calls, total ms, share, GFLOP/s.
  std::string table() const;
  // In the order in which they were recorded: on one stream, that of the ends.
  struct Span {
    int row;
    std::int64_t begin_ns, end_ns;  // of now_ns()
  };
  const ProfileRow& row(int index) const { return rows_[static_cast<std::size_t>(index)]; }
  std::vector<Span> spans() const;
  // By row.
  struct Sum {
    std::int64_t calls = 0, total_ns = 0;
  };
  std::vector<Sum> sums() const;
  // Chrome trace event format; throws Error(CheckpointIo) when the file cannot be written.
  void write_trace(const std::string& path, int rank) const;

 private:
  struct Row : ProfileRow, Sum {};
  mutable std::mutex mutex_;
  std::vector<Row> rows_;
  std::vector<Span> spans_;
};

}  // namespace plimsoll
