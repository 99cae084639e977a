#pragma once
// What plans of a run take their times from: the description of comm.cluster where one is named; otherwise this
// machine, by the kernel profile of plan.profile.
//
// The profile is <cache>/plimsoll/kernels.json (launch/measured.hpp) or the file that is named. `train` measures what
// is missing when it is first asked for, on all ranks at once, and keeps it; `plan` uses what is there.

#include "launch/config.hpp"
#include "launch/kernel_timer.hpp"
#include "launch/run_setup.hpp"
#include "parallel/layout.hpp"

namespace plimsoll {

// The description of comm.cluster. Where it names none: a CPU core per rank, or with device: cuda the GPU that the run
// found, by its data sheet or as it was measured, and an H200 where none was looked for (`plan`). Error(Config) where
// linears are to be in fp8 and a described GPU has none.
ClusterDescription choose_cluster(const Config& config);

// Of config.device.
KernelsOf kernels_of(const Config& config);
// Of the GPUs that the run found; where none was looked for, of the device that choose_cluster() describes, by its name
// in the device table.
FusedHeads fused_heads_of(const Config& config);

class RunCosts {
 public:
  // `control`: of all ranks, which then must ask for the same nodes in the same order; null: nothing is measured.
  // `most_bytes`: of the buffers of a measured node. Rank 0 reads the file. Error(Config), on every rank, where a named
  // file cannot be used. With device: cuda, `backend` is whose kernels are measured, and without it nothing is known of
  // this machine, and a named file is refused; `messages`: of all ranks, over its transports, where there are several.
  // Both outlive this.
  RunCosts(const Config& config, const Place& place, const Group* control, std::int64_t most_bytes,
           Backend* backend = nullptr, const Group* messages = nullptr);
  RunCosts(const RunCosts&) = delete;
  RunCosts& operator=(const RunCosts&) = delete;
  LayoutMachine machine() const { return {cluster_, costs_}; }
  const ClusterDescription& cluster() const { return cluster_; }
  const CostModel& costs() const { return *costs_; }
  // Are times those of this machine?
  bool profiled() const { return profiled_ != nullptr; }
  // Those; null where they are described.
  const std::shared_ptr<const ProfiledCosts>& profile() const { return profiled_; }

  // On rank 0, writes what was measured, if anything was. A named file that cannot be written is Error(Config).
  void keep() const;
  // "kernel profile: 57 kinds of nodes measured (41 of them now, in 1.3 s), 2 from the description of cpu core"
  std::string text() const;

 private:
  KernelProfile load(const Config& config, const Group* control);

  ClusterDescription cluster_;
  DescribedCosts described_;
  ProfileOwner owner_;
  std::filesystem::path file_;
  bool named_ = false, writes_ = false;
  std::size_t known_ = 0;
  std::unique_ptr<KernelTimer> timer_;
  std::shared_ptr<const ProfiledCosts> profiled_;
  const CostModel* costs_ = nullptr;
};

}  // namespace plimsoll
