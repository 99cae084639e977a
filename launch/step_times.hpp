#pragma once
// What a step takes: as predicted from a cost model, and as measured, in the same terms.

#include <array>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "launch/roles.hpp"
#include "parallel/layout.hpp"
#include "runtime/exec/profile.hpp"
#include "runtime/plan/simulate.hpp"

namespace plimsoll {

// Of one rank, seconds. Kernels: of one micro-batch, with what is recomputed; of the update once a step. Collectives:
// those on communication streams, all of a step, by mesh axis; where measured, with the waiting for other ranks. Where
// sections were timed as a whole (ProfileRow), theirs are with the waiting for other streams.
struct RankTimes {
  double forward_s = 0, backward_s = 0, update_s = 0;
  std::optional<double> recompute_s;  // of backward_s; nullopt: its nodes were not timed
  std::array<double, kMeshAxes.size()> collective_s{};
};

struct StepPrediction {
  double step_s = 0;
  std::vector<RankTimes> roles;  // of each role, on its first rank
  // By role, of a replica that has it: what its stages do, all of a step; without a pipeline as of one stage.
  std::vector<std::shared_ptr<const Timeline>> timelines;
};

// Plays the "train" programs of all roles; pipelines by their schedule. The step is that of the replica that is done
// last. `slowness`: of each replica, its time for a micro-batch over what the cost model says; empty: all as it says.
// The same questions to the cost model, in the same order, on every rank.
StepPrediction predict_step(const std::vector<RankRole>& roles, const LayoutMachine& machine,
                            const std::vector<double>& slowness = {});

// What is said of a step beside its time: what is left of it where messages take none is exposed communication.
struct StepReport {
  StepPrediction prediction;
  double bubble = 0;     // idle share of the stages until the last backward; 0 without a pipeline
  double exposed_s = 0;  // communication that nothing hides, of the step
  double mfu = 0;        // model FLOPs per second of all ranks / peak of the description
};
StepReport report_step(const std::vector<RankRole>& roles, const LayoutMachine& machine);
// `costs`: whose times these are (RunCosts::text()).
std::string step_text(const StepReport& report, const std::vector<RankRole>& roles, const std::string& costs);
nlohmann::json step_json(const StepReport& report, const std::vector<RankRole>& roles, const std::string& costs);

// What the rows of "train" took since `before` (Profile::sums()) in so many steps.
RankTimes measured_times(const Profile& profile, const std::vector<Profile::Sum>& before, std::int64_t steps,
                         std::int64_t micro_batches);

}  // namespace plimsoll
