#pragma once
// What is recomputed, what that is predicted to cost, and what the usual ways would cost under the same budget.

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "launch/recompute_choice.hpp"
#include "launch/roles.hpp"

namespace plimsoll {

// Of one stage. Seconds are predicted, of all micro-batches of a step; a step of the stage is their forward and
// backward and the update, with everything kept.
struct RecomputeReport {
  double step_seconds = 0;
  double recompute_seconds = 0;  // of what its program makes again, and that blocks of rows add
  double offload_seconds = 0;    // that copies to and from host memory add to that
  // Where the planner chose now (memory.recompute: auto), and not an earlier start:
  struct Planned {
    std::int64_t model_bytes = 0;  // the budget of the planner, in bytes of its memory model
    double bound_seconds = 0;      // nothing within them costs less
    bool exact = false;            // nor less than what was chosen
    // Within the same bytes of the same model: the first k layers in full, one set of values for all layers, greedy.
    // nullopt: none fits.
    std::optional<double> first_layers, uniform, greedy;
  };
  std::optional<Planned> planned;
};

// By role; empty where nothing is recomputed. `choice`: that the roles were made by, if there was one.
std::vector<RecomputeReport> recompute_reports(const std::vector<RankRole>& roles, const CostModel& costs,
                                               const std::optional<RecomputeChoice>& choice);

// Which layers of a role recompute what, and what it costs, or that none does; empty where nothing is trained. `report`
// may be null.
std::string recompute_text(const RankRole& role, const RecomputeReport* report);
nlohmann::json recompute_json(const RankRole& role, const RecomputeReport* report);

// What the layers recompute, on one line of YAML, for plan.json; reading it back is Error(BadData) where it cannot be
// read.
std::string recompute_line(const std::vector<LayerRecompute>& layers);
std::vector<LayerRecompute> read_recompute_line(const std::string& line, const std::string& file);

}  // namespace plimsoll
