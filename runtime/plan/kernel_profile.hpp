#pragma once
// What kernels take on one machine: measured once (launch/kernel_timer.hpp), kept in a file, and the source of costs
// for plans of runs on this machine.

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "runtime/plan/cost.hpp"

namespace plimsoll {

// All that the time of a node depends on, as text: op, phase, dtype, shapes of its slots, attributes that change the
// work, which gradients are wanted and whether they are added to. The same for like nodes of all layers.
std::string kernel_key(const Node& node);

// Seconds by kernel_key(), those of one byte of a long pass over memory, and of collectives.
struct KernelProfile {
  std::map<std::string, double, std::less<>> seconds;
  double memory_seconds_per_byte = 0;  // 0: not known
  std::vector<MeasuredLink> links;     // of all processes of the owner, after work like that of a step
  bool operator==(const KernelProfile&) const = default;
};

// Whose profile it is: times hold for a CPU, a build, and so many threads in each of so many processes on the host; of
// kernels of another device, for that and the libraries of its kernels, whatever the threads.
struct ProfileOwner {
  std::string cpu, build;
  int threads = 1, processes = 1;
  std::string device = {};  // with its libraries; empty: the CPU
};

// A file holds the profiles of one CPU and build, by threads or device, and processes. Reads that of `owner`: empty
// where the file is missing or has none, and where it is of another CPU or build or cannot be read, unless `strict`:
// then those are Error(Config) that say why.
KernelProfile read_kernel_profile(const std::filesystem::path& file, const ProfileOwner& owner, bool strict);
// Replaces that of `owner`, and keeps those of other threads, devices and processes. The file is replaced as a whole
// (temporary file and rename); false where that fails.
bool write_kernel_profile(const std::filesystem::path& file, const ProfileOwner& owner, const KernelProfile& profile);

// As text for other processes, and from it.
std::string profile_text(const KernelProfile& profile);
KernelProfile profile_of_text(const std::string& text, int processes);

// Runs nodes to measure them.
class NodeTimer {
 public:
  virtual ~NodeTimer() = default;
  // nullopt: not measured (too large, or there is no time left).
  virtual std::optional<double> node_seconds(const Graph& graph, const Node& node) = 0;
  virtual std::optional<double> memory_seconds_per_byte() = 0;
  // Of all ranks of the run together.
  virtual std::optional<MeasuredLink> link(LinkOperation operation) = 0;
};

// A profile, completed by a timer where there is one, before a description: what is in the profile counts; what is not
// is measured when it is first asked for; and what cannot be measured takes what the description says, times how much
// longer than described the node of that op and phase took whose described time is nearest. Collectives are measured
// over all processes; smaller groups take what the description says, times how much longer than described all take.
class ProfiledCosts : public CostModel {
 public:
  // `described` and `timer` outlive it; `timer` may be null. `processes`: of the profile's owner.
  ProfiledCosts(const CostModel& described, KernelProfile profile, NodeTimer* timer, int processes = 1);
  double node_seconds(const Graph& graph, const Node& node) const override;
  double collective_seconds(CollectiveKind kind, std::int64_t bytes, int ranks, int stride) const override;
  double collective_slows(CollectiveKind kind, int ranks, int stride) const override;
  double memory_seconds(std::int64_t bytes) const override;
  // Is this collective measured, over all processes? Measures it first where there is a timer.
  bool measures(LinkOperation operation) const { return processes_ > 1 && link(operation) != nullptr; }

  const KernelProfile& profile() const { return profile_; }
  bool grew() const { return grew_; }  // by measurements
  // Kinds of nodes that were asked for.
  struct Coverage {
    int measured = 0, described = 0;
  };
  Coverage coverage() const;

 private:
  struct Known {
    double described, measured;
  };
  struct MeasuredTable {
    LinkTable table;
    double slows;
  };
  const MeasuredTable* link(LinkOperation operation) const;

  const CostModel& described_;
  NodeTimer* timer_;
  int processes_;
  mutable KernelProfile profile_;
  mutable bool grew_ = false;
  mutable std::map<LinkOperation, std::optional<MeasuredTable>> links_;  // of all processes, those that were asked for
  mutable std::map<std::string, bool> asked_;                            // kernel_key → in the profile
  mutable std::map<std::pair<OpId, Phase>, std::vector<Known>> like_;    // of those that were asked for
};

}  // namespace plimsoll
