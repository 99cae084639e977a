#pragma once
// What makes a run: everything of one rank that is chosen, measured, agreed on and allocated before its first step.

#include <array>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "launch/backend.hpp"
#include "launch/bootstrap.hpp"
#include "launch/config.hpp"
#include "launch/engine.hpp"
#include "launch/groups.hpp"
#include "launch/plan_report.hpp"
#include "launch/run_costs.hpp"
#include "launch/run_setup.hpp"
#include "launch/share_choice.hpp"
#include "launch/step_times.hpp"
#include "runtime/data/loader.hpp"

namespace plimsoll {

// In the order in which it is made. It stays where it is: the engine has the addresses of groups, backend and profile.
struct Run {
  const MpiSession& mpi;
  Config config;
  Config written;  // with `auto` where it was: another number of ranks may read it
  nlohmann::json asked;
  Place place;
  Group control;
  int threads = 1;  // of the host
  Backend backend;
  Groups groups;                  // may carry the memory of the backend's device
  std::optional<Mesh> connected;  // that groups are of
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Dataset> dataset;
  RankBudgets budgets;
  std::int64_t outside = 0, host_budget = 0;  // bytes of a rank
  double peak_gflops = 0;                     // of all ranks together
  ProgramOptions options;
  std::vector<RankRole> roles;
  std::unique_ptr<RunCosts> costs;
  StepPrediction predicted;
  RankTimes predicted_here;
  std::optional<RecomputeChoice> recompute_choice;             // where this start made it
  std::vector<RecomputeReport> recompute;                      // by role
  std::optional<ShareChoice> shares;                           // where this start chose them
  std::unique_ptr<Profile> profile;                            // null: nothing is trained
  std::unique_ptr<Engine> engine;                              // whose weights are not those of the run yet
  std::array<std::int64_t, kMeshAxes.size()> sent_in_steps{};  // bytes by axis, counted by the steps
  // A run that fails leaves work on the device that waits for other ranks, and the driver would wait for that before it
  // takes back the arena: so this goes before the engine.
  struct AbortUnlessClosed {
    Backend& backend;
    ~AbortUnlessClosed() {
      if (backend.transports) backend.transports->abort();
    }
  } abort_unless_closed{backend};

  // To train or to evaluate. Collective: every rank calls it with the same configuration. `plan`: a file that the run
  // follows to the byte (plan_file.hpp); empty: none. Error(Config): the configuration does not go with the ranks, the
  // data or the plan; Error(OutOfMemory): nothing fits the budget, found before the arena is allocated;
  // Error(RanksDisagree): ranks differ; what is read and what is computed on have errors of their own.
  Run(Config given, const MpiSession& session, Purpose purpose, const std::filesystem::path& plan = {});
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  // Collective, when nothing is sent any more.
  void close();

  // Of this rank: its batches of a split, from a step on, and how many a step has.
  LoaderOptions loader(Split split, std::int64_t first_step) const;
  std::int64_t micro_batches() const { return micro_batches_of(options, place.rank); }

  bool traced() const { return !config.run.trace.empty(); }
  bool chief() const { return place.rank == 0; }  // says what all ranks know
  // What computes, and the peak rate of all ranks, for people.
  std::string compute_text() const;
  PlanContext plan_context() const;

 private:
  void connect(const Mesh& mesh);
  std::int64_t largest(std::int64_t mine) const;
  void agree_on_outside();
  void choose(Purpose purpose);
  RankBudgets measured_budgets() const;
  std::optional<Infeasible> infeasible_role(const std::vector<RankRole>& all) const;
  void make_engine(Purpose purpose, const std::function<void()>& connect);
  void check_device_memory() const;
  void share();
  void predict();
  void predict_times();
};

}  // namespace plimsoll
