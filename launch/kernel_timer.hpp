#pragma once
// Measures what the kernels of nodes take on this machine: each runs alone on buffers of its own, a few times, timed by
// the device's own clock, and the median counts. Under a launcher all ranks run it at the same time, as they will in
// the run, so that they share the memory and the caches of their host in the same way; the median of the slowest
// counts, for a step waits for it, and all ranks get it. Collectives are measured over all ranks, after a product of
// matrices that takes a few milliseconds on a CPU (comm/probe.hpp).

#include "comm/group.hpp"
#include "launch/backend.hpp"
#include "launch/node_runner.hpp"
#include "runtime/plan/kernel_profile.hpp"

namespace plimsoll {

struct KernelTimerOptions {
  int threads = 1;               // of the host
  std::int64_t most_bytes = 0;   // for the buffers of one node, 0: no limit; larger nodes are not measured
  double most_seconds = 30;      // for all nodes; later ones are not measured
  const Group* group = nullptr;  // of all ranks, who ask for the same nodes in the same order; null: this one alone
  // Whose kernels; null: those of the CPU. Outlives the timer.
  Backend* backend = nullptr;
  // Of the ranks of `group`, for the memory of the backend's device; null: collectives of host memory are measured.
  const Group* messages = nullptr;
};

class KernelTimer : public NodeTimer {
 public:
  explicit KernelTimer(const KernelTimerOptions& options);
  std::optional<double> node_seconds(const Graph& graph, const Node& node) override;
  std::optional<double> memory_seconds_per_byte() override;
  std::optional<MeasuredLink> link(LinkOperation operation) override;
  double spent_seconds() const { return spent_s_; }

 private:
  double slowest(double seconds) const;
  bool allowed(std::int64_t bytes) const;
  double median_of_runs(NodeRunner& node);
  double timed(NodeRunner& node, int runs);

  KernelTimerOptions options_;
  std::unique_ptr<Backend> own_;
  Backend* backend_;
  std::unique_ptr<Stream> compute_, communication_;  // the second where there are messages
  std::unique_ptr<Timer> timer_;
  double spent_s_ = 0;  // the same on all ranks
};

}  // namespace plimsoll
