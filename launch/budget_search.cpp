#include "launch/budget_search.hpp"

#include <algorithm>
#include <utility>
#include <variant>

namespace plimsoll {
namespace {

// An eighth of that away from the budget, a guess is as good as a plan; later so many times what lies beside the
// planner's model differed between the last two plans.
constexpr std::int64_t kCertain = 8, kAlike = 4;
// Where the least does not fit, and values may wait in host memory, so many others are tried in turn.
constexpr std::int64_t kProbes = 16;
constexpr std::size_t kKnownStages = 64;

// Of one answer of the planner, which is asked several times, for every layout that may be the best: so many labels of
// all layers together. What is lost is in the gap that the report shows.
RecomputeLimits limits_of(const RecomputeStage& stage) {
  // Of many prices, each answer is a guess that is played.
  if (stage.link && stage.link->overlap) return {64, 100'000, 0.02};
  return {std::clamp(8192 / std::max(1, static_cast<int>(stage.layers.size())), 64, 512), 2'000'000, 0.01};
}

}  // namespace

PlannedBytes BytePlans::plan(const std::vector<LayerRecompute>& chosen, std::int64_t enough_bytes) {
  there_.recompute.assign(static_cast<std::size_t>(there_.model.layers), {});
  for (std::size_t i = 0; i < chosen.size(); ++i) there_.recompute[static_cast<std::size_t>(layers_[i])] = chosen[i];
  return known_bytes(there_, enough_bytes, &keeping_);
}

std::shared_ptr<KnownAnswers> KnownAnswers::of(const RecomputeStage& stage) {
  static Remembered<KnownAnswers, RecomputeStage> all(kKnownStages);
  return all.of(stage);
}

RecomputeAnswer KnownAnswers::plan(std::int64_t model_bytes) {
  const std::lock_guard lock(mutex_);
  const auto known = answers_.find(model_bytes);
  if (known != answers_.end()) return known->second;
  return answers_.emplace(model_bytes, planner_.plan(model_bytes, limits_of(stage()))).first->second;
}

const BudgetSearch::Found& BudgetSearch::run(std::int64_t steps) {
  search(steps);
  if (!found_.fits) find_least();
  return found_;
}

double BudgetSearch::bound_seconds(std::int64_t model_bytes) {
  const RecomputeAnswer answer = planner_->plan(model_bytes);
  return std::holds_alternative<RecomputePlan>(answer) ? std::get<RecomputePlan>(answer).bound_seconds : 0;
}

void BudgetSearch::search(std::int64_t steps) {
  attempt(full(), 0);
  std::int64_t low = least_budget(), high = no_recompute_peak_bytes(planner_->stage());
  if (low >= high) return;
  if (!attempt(low)) {
    // What comes back early is not in the planner's model, so its smallest need not be the smallest.
    const std::int64_t step = planner_->stage().link ? (high - low) / kProbes : 0;
    std::int64_t probe = low + step;
    while (probe < high && step > 0 && !attempt(probe)) probe += step;
    if (step == 0 || probe >= high) return;
    low = probe;
  }
  const std::int64_t unit = std::min(high - low, budget_), width = std::max<std::int64_t>(1, unit / steps);
  least_certain_ = 2 * width;
  narrow(low, high, width, unit / kCertain);
  // Guided wrongly, it ends where nothing was found.
  least_certain_ = high;
  if (!found_.fits || found_.model_bytes < guessed_) narrow(low, high, width, high);
}

// The same budgets of the planner are tried whatever the budget of the arena is: a larger one then goes at least as
// far up, although the bytes of plans do not quite rise with the planner's budget. What lies beside the planner's
// model is about the same in all plans: where the last one says that the next is further from the budget than that
// differs between them (at first `certain`), nothing is planned for it.
void BudgetSearch::narrow(std::int64_t low, std::int64_t high, std::int64_t width, std::int64_t certain) {
  guessed_ = 0;
  certain_ = certain;
  while (high - low > width) {
    const std::int64_t middle = low + (high - low) / 2, spare = budget_ - (middle + beside_);
    if (spare > certain_) guessed_ = middle;
    const bool fits = spare > certain_ || (spare >= -certain_ && attempt(middle));
    (fits ? low : high) = middle;
  }
}

std::int64_t BudgetSearch::least_budget() {
  const RecomputeAnswer none = planner_->plan(0);
  return std::holds_alternative<RecomputeInfeasible>(none) ? std::get<RecomputeInfeasible>(none).needed_bytes : 0;
}

// Nothing but boundaries is kept. Where the planner's smallest does not fit, its model may have been wrong about
// which one is the smallest.
RecomputePlan BudgetSearch::full() const {
  std::vector<LayerChoice> choices;
  for (const int kind : planner_->stage().layers) {
    const int layer = static_cast<int>(choices.size());
    choices.push_back({keep_nothing(planner_->stage().kinds[static_cast<std::size_t>(kind)]), layer, false});
  }
  return recompute_plan_of(planner_->stage(), std::move(choices));
}

bool BudgetSearch::attempt(std::int64_t model_bytes) {
  RecomputeAnswer answer = planner_->plan(model_bytes);
  return std::holds_alternative<RecomputePlan>(answer) &&
         attempt(std::get<RecomputePlan>(std::move(answer)), model_bytes);
}

// Does it fit? What costs too much counts as if it did: what is cheaper takes more bytes.
bool BudgetSearch::attempt(RecomputePlan plan, std::int64_t model_bytes) {
  if (plan.seconds >= incumbent_seconds_) return true;
  std::vector<LayerRecompute> chosen = layer_recompute(graph_, plan);
  const PlannedBytes bytes = bytes_.of(chosen);
  const bool fits = bytes.arena <= budget_;
  const std::int64_t before = std::exchange(beside_, bytes.least - plan.peak_bytes);
  if (certain_ > least_certain_) certain_ = std::clamp(kAlike * std::abs(beside_ - before), least_certain_, certain_);
  model_bytes = std::max(model_bytes, plan.peak_bytes);
  Found tried{fits, std::move(plan), bytes, model_bytes};
  if (!fits) {
    misfits_.push_back({std::move(chosen), std::move(tried)});
  } else if (!found_.fits || tried.plan.seconds < found_.plan.seconds) {
    found_ = std::move(tried);
  }
  return fits;
}

// Of those that do not fit the one that needs least, to the byte.
void BudgetSearch::find_least() {
  std::stable_sort(misfits_.begin(), misfits_.end(),
                   [](const Misfit& a, const Misfit& b) { return a.found.bytes.least < b.found.bytes.least; });
  for (Misfit& misfit : misfits_) {
    const bool first = found_.plan.layers.empty();
    // What it cannot do without is rounded up to the alignment.
    if (!first && misfit.found.bytes.least >= found_.bytes.arena + kArenaAlignment) return;
    misfit.found.bytes = bytes_.best_of(misfit.chosen);
    if (first || misfit.found.bytes.arena < found_.bytes.arena) found_ = std::move(misfit.found);
  }
}

}  // namespace plimsoll
