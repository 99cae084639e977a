#pragma once
// What a run that does not fit could change: settings that a user can type, each planned as the run would be with them.

#include "launch/run_setup.hpp"

namespace plimsoll {

// What the run was planned for; as the arguments of choose_programs().
struct PlanQuestion {
  const Config& config;  // with a layout
  bool layout_chosen;    // it was `parallel: auto`: settings then name the layout too
  Place place;
  Purpose purpose = Purpose::Train;
  RankBudgets budgets;
  std::int64_t outside_bytes = 0, host_bytes = kNoHostLimit;
  const CostModel* costs = nullptr;
  std::shared_ptr<const ProfiledCosts> measured = nullptr;
};

// The question with settings of `--set` over its configuration, on so many ranks, answered: everything that is `auto`
// is chosen anew, and as much lies outside of the arena. nullopt where configuration, model, batch or cluster do not
// allow them.
std::optional<NearestChange> planned_change(const PlanQuestion& question, std::vector<std::string> settings, int ranks);

// Fills Infeasible::changes and adds a line for each to its text, with words that a shell takes as they are:
// "  --ranks 2 --set parallel.tensor=2: 37.2 GiB (fits)". Smaller micro-batches and sequences, other recomputation,
// fewer logits at a time, more ZeRO, plain SGD, and twice the ranks along each axis; where none of these fits on more
// ranks, the first of 2, 4, … 64 times the ranks that has a layout, with the one that needs least. Those that fit
// first, the least changed of them (which needs most) on top; of the others the three nearest. At last the budget that
// is needed. Nothing for generation, whose bytes follow from the model. `options`: what was chosen for the question.
void add_nearest_changes(Infeasible& no, const PlanQuestion& question, const ProgramOptions& options);

}  // namespace plimsoll
