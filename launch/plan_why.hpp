#pragma once
// `plan --why`: what holds a plan back. A constraint binds where the same question, asked again without it, has a
// faster answer; the difference is what it costs. Every number is that of a plan which was made so.

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "launch/layout_choice.hpp"
#include "launch/plan_report.hpp"

namespace plimsoll {

// The best plan with one constraint changed.
struct ChangedPlan {
  std::string key;     // "memory.budget"
  std::string change;  // "+ 1.00 GiB"
  double step_s = 0;   // predicted, of as many sequences as the plan's
  double gain_s = 0;   // off PlanWhy::base_s
  std::string layout;  // as text, where it is another one; empty: the same
};

// What messages of an axis leave exposed in the layout as it is, with the usual sizes.
struct AxisPrice {
  std::string axis;
  int ranks = 1;
  bool inside = true;    // nodes, or between them
  double exposed_s = 0;  // off a step if they took no time
  double twice_s = 0;    // off a step over links twice as fast
};

// Where a step of another layout takes longer (or, negative, less long) than that of the best, by their estimates; and
// by simulation, which chose, where both were simulated.
struct StepDifference {
  std::string layout;
  std::optional<double> simulated_s = {};
  double step_s = 0, recompute_s = 0, exposed_s = 0, idle_s = 0, update_s = 0;
  double compute_s() const { return step_s - recompute_s - exposed_s - idle_s - update_s; }
};

// Times are estimates of the search, so that they can be held against each other.
struct PlanWhy {
  double step_s = 0;
  std::optional<double> simulated_s;  // the same step
  // What changes are compared with: the least estimate. It is that of another layout, which has a name here, where
  // simulation chose this one.
  double base_s = 0;
  std::string base_layout;
  // The role with the least margin in its budget, and where it has most; budget 0: none was given.
  std::string role, ranks, node;
  std::int64_t budget_bytes = 0, needed_bytes = 0;
  double recompute_s = 0;            // of a step, by the stage that recomputes most
  std::int64_t kept_bytes = 0;       // a rank needs so much with everything kept
  std::vector<ChangedPlan> changes;  // constraint by constraint
  std::vector<AxisPrice> axes;
  std::vector<StepDifference> others;  // the layouts behind the best
};

// `config`: as it was given, `parallel` may be auto. `choice`: its layouts, at least one of which fits, chosen by
// choose_layout() or predict_layout() with the budgets of `context`; `roles`: the plan that was made of it.
PlanWhy explain_plan(const Config& config, const Place& place, const LayoutMachine& machine, const LayoutChoice& choice,
                     const std::vector<RankRole>& roles, const PlanContext& context);

std::string why_text(const PlanWhy& why);
nlohmann::json why_json(const PlanWhy& why);

}  // namespace plimsoll
